"""What logs, traces and metrics hear of the batcher's passes."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager

from contracts.engine import Pass
from telemetry import metrics, tracing
from telemetry.logs import get_logger
from worker.engine.wire import DeviceMemory
from worker.images import Image

log = get_logger(__name__)


def traced(batch: Pass, images: Sequence[Image]) -> AbstractContextManager[tracing.Span]:
    """A pass belongs to many jobs: it is a trace of its own, linked to theirs."""
    key = batch.key
    return tracing.span(
        f"batch {key.model}",
        root=True,
        links=dict.fromkeys(image.traceparent for image in images),
        attributes={
            "darkroom.model": key.model,
            "darkroom.images": len(images),
            "darkroom.joining": len(batch.joining),
            "darkroom.width": key.width,
            "darkroom.height": key.height,
        },
    )


def log_broken(event: str, error: Exception, images: int) -> None:
    """Our own code has raised, for a company of so many images. Type and place must do: an error's words may repeat a prompt."""
    stack = "".join(traceback.format_tb(error.__traceback__))
    log.error(event, error=type(error).__name__, images=images, stack=stack)


def report_memory(model: str, memory: DeviceMemory | None) -> None:
    """What is in use on the device after a pass, where it tells."""
    if memory is not None:
        metrics.DEVICE_MEMORY.labels(model, memory.device).set(memory.used_bytes)
        metrics.DEVICE_MEMORY_LIMIT.labels(model, memory.device).set(memory.limit_bytes)
