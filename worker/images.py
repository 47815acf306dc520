"""An image in the batcher's hands: what it asks of the device, how far it has come, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from contracts.engine import BatchKey, ImageFault, ImageTask, Pass, Pixels, Progress
from contracts.failures import EngineCrashed, EngineFault, OutOfMemory, WorkerFault
from scheduler.policy import ANYONE, Sample
from scheduler.recovery import Failure
from worker.engine.messages import Failed


class TooLate(Exception):
    """The image can no longer be drawn by its deadline, and has not been."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What became of one image: its passes took `batch_ms` in all, and the largest held `batch_size` images."""

    image: Pixels | ImageFault
    batch_ms: float
    batch_size: int
    traceparent: str | None = None
    """The span of its last pass."""


@dataclass(frozen=True, slots=True)
class ScheduleKey:
    """An image's claim to the device: its fair tag, and its deadline on the monotonic clock."""

    tag: float
    deadline: float


@dataclass(slots=True, eq=False)
class Image:
    """One image in hand; `drawn` is what its job waits for, and belongs to the event loop."""

    id: int
    key: BatchKey
    task: ImageTask
    turn: ScheduleKey
    drawn: asyncio.Future[ImageResult]
    on_step: Callable[[Progress], object]
    group: int = ANYONE
    crashes: int = 0
    begun: bool = False
    ahead: int = 0
    """Passes that the engine was handed with it, and has not answered."""
    steps_taken: int = 0
    steps: int = field(init=False)
    """In all, as the engine last said; before its first step, as its task says."""
    batch_ms: float = 0.0
    batch_size: int = 0
    traceparent: str | None = None

    def __post_init__(self) -> None:
        self.steps = self.task.steps

    @property
    def steps_left(self) -> int:
        """At least one: what is in hand is not drawn yet."""
        return max(1, self.steps - self.steps_taken)

    @property
    def goes_on(self) -> bool:
        """Whether it needs a pass behind those that the engine was handed."""
        return self.ahead == 0 or self.steps_left > self.ahead

    @property
    def ending(self) -> bool:
        """Whether it is as good as drawn."""
        return self.begun and self.steps_left <= max(1, self.ahead)

    def sample(self) -> Sample:
        """As the policy sees it, once what the engine was handed is over."""
        turn, ahead = self.turn, self.ahead
        return Sample(
            self.key, turn.tag, turn.deadline, self.steps_left - ahead, self.steps_taken + ahead, self.group
        )

    def start_over(self) -> None:
        """The engine has forgotten it, or is to forget it."""
        self.begun, self.steps_taken = False, 0

    def tell(self, outcome: Outcome | None) -> None:
        """On the event loop: hand it what a pass made of it; None: it runs again."""
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
    Failure.CRASH: (EngineCrashed.code, "{} Twice, under this picture alone."),
    Failure.OUT_OF_MEMORY: (OutOfMemory.code, "{}"),
}


def fault_of(failed: Failed) -> ImageFault:
    """What an image ends with that was the culprit of a pass that failed."""
    code, words = _FAULTS[failed.failure]
    return ImageFault(code, words.format(failed.reason))


Outcome = Progress | ImageResult | TooLate | WorkerFault
"""What the event loop is told of an image."""


@dataclass(slots=True, eq=False)
class Flight:
    """A pass that the engine was handed."""

    batch: Pass
    images: list[Image]
    seconds: float
    """What it should take; 0.0 while nobody knows."""
    begins_at: float = 0.0
    """On the worker's clock; known once it is the first that the engine was handed."""
    void: set[Image] = field(default_factory=set)
    """Those that have started over meanwhile: what the pass makes of them does not count."""
    unsaid: Exception | None = None
    """Why the engine was not handed it after all."""
