"""An active image of the batcher: its task, its progress and its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from contracts.engine import Batch, BatchKey, ImageFault, ImageTask, Pixels, Progress
from contracts.failures import EngineCrashed, EngineFault, OutOfMemory, WorkerFault
from scheduler.policy import ANYONE, Sample
from scheduler.recovery import Failure
from worker.engine.messages import Failed


class TooLate(Exception):
    """The image has not been generated, and no longer can be by its deadline."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """The result of one image, or its failure.

    `batch_ms` is the time of all its batches, and `batch_size` the number of images in the largest.
    """

    image: Pixels | ImageFault
    batch_ms: float
    batch_size: int
    traceparent: str | None = None
    """The trace span of its last batch."""


@dataclass(frozen=True, slots=True)
class ScheduleKey:
    """What orders an image: its fair-queuing tag, and its deadline on the monotonic clock."""

    tag: float
    deadline: float


@dataclass(slots=True, eq=False)
class Image:
    """One active image. Its job waits for `result`, which belongs to the event loop."""

    id: int
    key: BatchKey
    task: ImageTask
    schedule_key: ScheduleKey
    result: asyncio.Future[ImageResult]
    on_step: Callable[[Progress], object]
    group: int = ANYONE
    crashes: int = 0
    begun: bool = False
    batches_in_flight: int = 0
    """Batches with this image that the engine has not answered yet."""
    steps_taken: int = 0
    steps: int = field(init=False)
    """Steps in all, as the engine last reported. Before the first step, as the task says."""
    batch_ms: float = 0.0
    batch_size: int = 0
    traceparent: str | None = None

    def __post_init__(self) -> None:
        self.steps = self.task.steps

    @property
    def steps_left(self) -> int:
        """Denoising steps left. At least one, since an active image is not finished."""
        return max(1, self.steps - self.steps_taken)

    @property
    def needs_batch(self) -> bool:
        """Whether it needs a batch after those in flight."""
        return self.batches_in_flight == 0 or self.steps_left > self.batches_in_flight

    @property
    def finishing(self) -> bool:
        """Whether it needs no batch after the next one, or those in flight."""
        return self.begun and self.steps_left <= max(1, self.batches_in_flight)

    def sample(self) -> Sample:
        """The image as the policy sees it, once the batches in flight have run."""
        schedule_key, ahead = self.schedule_key, self.batches_in_flight
        return Sample(
            self.key,
            schedule_key.tag,
            schedule_key.deadline,
            self.steps_left - ahead,
            self.steps_taken + ahead,
            self.group,
        )

    def start_over(self) -> None:
        """Begin again at the first step: the engine has dropped the sample, or is to drop it."""
        self.begun, self.steps_taken = False, 0

    def notify(self, outcome: Outcome | None) -> None:
        """On the event loop: pass an outcome on to the job; None: the image runs again."""
        if self.result.done() or outcome is None:
            return
        if isinstance(outcome, ImageResult):
            self.result.set_result(outcome)
        elif isinstance(outcome, Progress):
            self.on_step(outcome)
        else:
            self.result.set_exception(outcome)


_FAULTS: Final = {
    Failure.FAULT: (EngineFault.code, "The model raised {}."),
    Failure.CRASH: (EngineCrashed.code, "{} Twice, with only this image in the batch."),
    Failure.OUT_OF_MEMORY: (OutOfMemory.code, "{}"),
}


def fault_of(failed: Failed) -> ImageFault:
    """The failure of an image that made a batch fail."""
    code, message = _FAULTS[failed.failure]
    return ImageFault(code, message.format(failed.reason))


Outcome = Progress | ImageResult | TooLate | WorkerFault
"""What a batch, or the scheduler, has made of an image."""


@dataclass(slots=True, eq=False)
class Flight:
    """A batch that was sent to the engine."""

    batch: Batch
    images: list[Image]
    seconds: float
    """Expected duration; 0.0 while unknown."""
    begins_at: float = 0.0
    """By the worker's monotonic clock. Right once it is the first batch in flight."""
    discarded: set[Image] = field(default_factory=set)
    """Images that started over after the batch was sent. What it makes of them does not count."""
    send_error: Exception | None = None
    """Why the batch could not be sent to the engine."""
