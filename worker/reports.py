"""Logs, traces and metrics of batches."""

from __future__ import annotations

import traceback
from contextlib import AbstractContextManager

from telemetry import metrics, tracing
from telemetry.logs import get_logger
from worker.engine.messages import Answer, DeviceMemory, Done, Failed, Unrun
from worker.images import Flight

log = get_logger(__name__)


def traced(flight: Flight) -> AbstractContextManager[tracing.Span]:
    """The trace span of a batch. It starts a new trace, with links to the traces of its jobs."""
    key, images = flight.batch.key, flight.images
    return tracing.span(
        f"batch {key.model}",
        root=True,
        links=dict.fromkeys(image.traceparent for image in images),
        attributes={
            "darkroom.model": key.model,
            "darkroom.images": len(images),
            "darkroom.joining": len(flight.batch.joining),
            "darkroom.width": key.width,
            "darkroom.height": key.height,
        },
    )


def report_batch(model: str, images: int, answer: Answer) -> None:
    """Count a batch of this many images by its answer, and log it if it failed."""
    match answer:
        case Done():
            metrics.BATCHES.labels(model, "done").inc()
            metrics.BATCH_SIZE.labels(model).observe(images)
            metrics.BATCH_SECONDS.labels(model).observe(answer.seconds)
            metrics.STEPS.labels(model).inc(images)
            report_memory(model, answer.device)
        case Failed():
            metrics.BATCHES.labels(model, answer.failure.value).inc()
            log.warning("batch_failed", failure=answer.failure.value, reason=answer.reason, images=images)
        case Unrun():
            metrics.BATCHES.labels(model, "unrun").inc()


def log_broken(event: str, error: Exception, images: int) -> None:
    """Log an error of our own code that concerns this many images.

    Only its type and place are logged, because its message may contain a prompt.
    """
    stack = "".join(traceback.format_tb(error.__traceback__))
    log.error(event, error=type(error).__name__, images=images, stack=stack)


def report_memory(model: str, memory: DeviceMemory | None) -> None:
    """Set the metrics of device memory after a batch. None: the device does not report it."""
    if memory is not None:
        metrics.DEVICE_MEMORY.labels(model, memory.device).set(memory.used_bytes)
        metrics.DEVICE_MEMORY_LIMIT.labels(model, memory.device).set(memory.limit_bytes)
