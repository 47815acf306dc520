"""What logs, traces and metrics hear of the batcher's passes."""

from __future__ import annotations

import traceback
from contextlib import AbstractContextManager

from telemetry import metrics, tracing
from telemetry.logs import get_logger
from worker.engine.messages import Answer, DeviceMemory, Done, Failed, Unrun
from worker.images import Flight

log = get_logger(__name__)


def traced(flight: Flight) -> AbstractContextManager[tracing.Span]:
    """A pass belongs to many jobs: it is a trace of its own, linked to theirs."""
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


def report_pass(model: str, images: int, answer: Answer) -> None:
    """What a pass of so many images came to."""
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
    """Our own code has raised, for a company of so many images. Type and place must do: an error's words may repeat a prompt."""
    stack = "".join(traceback.format_tb(error.__traceback__))
    log.error(event, error=type(error).__name__, images=images, stack=stack)


def report_memory(model: str, memory: DeviceMemory | None) -> None:
    """What is in use on the device after a pass, where it tells."""
    if memory is not None:
        metrics.DEVICE_MEMORY.labels(model, memory.device).set(memory.used_bytes)
        metrics.DEVICE_MEMORY_LIMIT.labels(model, memory.device).set(memory.limit_bytes)
