"""An image in the batcher's hands: what it asks of the device, how far it has come, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from contracts.engine import BatchKey, ImageFault, ImageTask, Pixels, Progress
from contracts.errors import WorkerFault
from scheduler.policy import ANYONE, Sample


class TooLate(Exception):
    """The image can no longer be drawn by its deadline, and has not been."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What became of one image: its passes took `batch_ms` in all, and the largest held `batch_size` images."""

    image: Pixels | ImageFault
    batch_ms: float
    batch_size: int
    traceparent: str | None = None
    """The span of its last pass."""


@dataclass(frozen=True, slots=True)
class Turn:
    """An image's claim to the device: its fair tag, and its deadline on the monotonic clock."""

    tag: float
    deadline: float


@dataclass(slots=True, eq=False)
class Image:
    """One image in hand; `drawn` is what its job waits for, and belongs to the event loop."""

    id: int
    key: BatchKey
    task: ImageTask
    turn: Turn
    drawn: asyncio.Future[Drawn]
    on_step: Callable[[Progress], object]
    group: int = ANYONE
    crashes: int = 0
    begun: bool = False
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

    def sample(self) -> Sample:
        """As the policy sees it."""
        turn = self.turn
        return Sample(self.key, turn.tag, turn.deadline, self.steps_left, self.steps_taken, self.group)

    def start_over(self) -> None:
        """The engine has forgotten it, or is to forget it."""
        self.begun, self.steps_taken = False, 0

    def tell(self, outcome: Outcome | None) -> None:
        """On the event loop: hand it what a pass made of it; None: it runs again."""
        if self.drawn.done() or outcome is None:
            return
        if isinstance(outcome, Drawn):
            self.drawn.set_result(outcome)
        elif isinstance(outcome, Progress):
            self.on_step(outcome)
        else:
            self.drawn.set_exception(outcome)


Outcome = Progress | Drawn | TooLate | WorkerFault
"""What the event loop is told of an image."""
