"""The active images of a worker: which of them run next, and the outcomes after a batch.

There are no threads, waits or locks here: `worker.device` has them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.engine import Batch, BatchKey, ImageFault, Progress
from contracts.failures import WorkerFault
from scheduler import handover
from scheduler.cost import CostModel
from scheduler.limits import BatchLimits
from scheduler.policy import ANYONE, Device, Dispatch, WaitUntil, decide
from scheduler.prefetch import QueuedImage, slots_to_fetch
from scheduler.recovery import Failure, GiveUp, after_failure, bisect_failures
from worker.engine.messages import Done
from worker.images import Flight, Image, ImageResult, Outcome


@dataclass(frozen=True, slots=True)
class Chosen:
    """The images of the next batch, none where there is nothing to run.

    `late` are the images that can no longer meet their deadline. `seconds` is the expected duration
    of the batch, 0.0 while that is unknown.
    """

    images: list[Image]
    late: list[Image]
    seconds: float


class ActiveImages:
    """The images that are taken and not finished. Not thread-safe."""

    def __init__(self, max_batch: int, cost: CostModel) -> None:
        self.images: list[Image] = []
        self.cost = cost
        self.limits = BatchLimits(max_batch)
        self._max_batch = max_batch
        self._groups = itertools.count(ANYONE + 1)
        self._leaving: list[int] = []
        """Samples that the engine is to drop with the next batch, by image id."""

    def room(self) -> int:
        """How many more images to fetch for the next batch."""
        queued, finishing = list[QueuedImage](), 0
        for image in self.images:
            if image.result.done():
                continue
            if image.finishing:
                finishing += 1
            else:
                queued.append(QueuedImage(image.key, image.schedule_key.tag, image.begun))
        return slots_to_fetch(queued, finishing, self._max_batch)

    def full(self) -> bool:
        """Whether the batch after those in flight would be full."""
        waiting = [
            handover.Candidate(image.key, image.group, image.schedule_key.tag)
            for image in self.images
            if image.needs_batch and not image.result.done()
        ]
        return handover.is_full(waiting, self.limits.limit)

    def choose(self, begins_at: float) -> Chosen:
        """Choose the images of a batch that begins at `begins_at`. Raises what the policy raises."""
        waiting = [image for image in self.images if image.needs_batch]
        decision = self._decide(begins_at, waiting)
        late = [waiting[index] for index in decision.late]
        for key in {image.key for image in late}:
            self.cost.gave_up(key)
        if isinstance(decision, WaitUntil):
            return Chosen([], late, 0.0)
        images = [waiting[index] for index in decision.batch]
        return Chosen(images, late, self.seconds(images[0].key, len(images)))

    def find_culprits(self, begins_at: float) -> list[Image]:
        """The images for which the policy raises, after it has raised for all of them together."""

        def breaks(images: Sequence[Image]) -> bool:
            try:
                self._decide(begins_at, images)
            except Exception:  # noqa: BLE001 - any error counts
                return True
            return False

        return bisect_failures([image for image in self.images if image.needs_batch], breaks)

    def take(self, images: list[Image], seconds: float) -> Flight:
        """Make the batch of these images, which the engine gets now.

        `seconds` is its expected duration.
        """
        joining = {image.id: image.task for image in images if not image.begun}
        for image in images:
            image.begun = True
            image.batches_in_flight += 1
        leaving, self._leaving = tuple(self._leaving), []
        batch = Batch(images[0].key, tuple(image.id for image in images), joining, leaving)
        return Flight(batch, images, seconds)

    def drop(self, images: Sequence[Image]) -> None:
        """Remove images here at once, and in the engine with the next batch."""
        self._leaving += [image.id for image in images if image.begun]
        dropped = set(images)
        self.images = [image for image in self.images if image not in dropped]

    def seconds(self, key: BatchKey, images: int) -> float:
        """The expected seconds of a batch of this many images; 0.0 while unknown."""
        return self.cost.seconds(key, images) or 0.0

    def advance(self, flight: Flight, done: Done, traceparent: str | None) -> list[Outcome | None]:
        """The outcome of each image of a batch that ran. Images that have ended are removed."""
        outcomes: list[Outcome | None] = []
        size = len(flight.images)
        for image, advanced in zip(flight.images, done.samples, strict=True):
            if image in flight.discarded:
                outcomes.append(None)
                continue
            image.batch_ms += done.seconds * 1000
            image.batch_size = max(image.batch_size, size)
            if isinstance(advanced, Progress):
                image.steps_taken, image.steps = advanced.step, advanced.steps
                outcomes.append(advanced)
            else:
                outcomes.append(ImageResult(advanced, image.batch_ms, image.batch_size, traceparent))
        self.remove_ended(flight.images, outcomes)
        return outcomes

    def unrun(self, flight: Flight) -> None:
        """Undo a batch that did not run.

        Joining images have not started, and leaving samples are not dropped yet.
        """
        for image in flight.images:
            if image.id in flight.batch.joining and image not in flight.discarded:
                image.start_over()
        self.requeue_leaving(flight)

    def requeue_leaving(self, flight: Flight) -> None:
        """Keep the leaving samples for the next batch, because the engine did not get this one."""
        self._leaving = [*flight.batch.leaving, *self._leaving]

    def engine_lost(self) -> None:
        """Start all images over, because the engine and its samples are gone."""
        for image in self.images:
            image.start_over()

    def after_failure(
        self, flight: Flight, failure: Failure, fault: ImageFault | WorkerFault
    ) -> list[Outcome | None]:
        """The outcome of each image of a failed batch: it runs again (None), or ends with `fault`."""
        images = flight.images
        verdicts = after_failure(
            failure,
            [image.group for image in images],
            [image.crashes for image in images],
            lambda: next(self._groups),
        )
        outcomes: list[Outcome | None] = []
        for image, verdict in zip(images, verdicts, strict=True):
            if image in flight.discarded:
                outcomes.append(None)
            elif isinstance(verdict, GiveUp):
                outcomes.append(
                    fault
                    if isinstance(fault, WorkerFault)
                    else ImageResult(fault, image.batch_ms, len(images))
                )
            else:
                image.group = verdict.group
                image.crashes += failure is Failure.CRASH
                outcomes.append(None)
        # The engine drops the samples of a batch that failed in it. After an error of our own code it
        # still has them.
        live = [image for image in images if image not in flight.discarded]
        if isinstance(fault, WorkerFault):
            self._leaving += [image.id for image in live]
        for image in live:
            image.start_over()
        self.remove_ended(images, outcomes)
        return outcomes

    def remove_ended(self, images: Sequence[Image], outcomes: Sequence[Outcome | None]) -> None:
        """Remove the images that have ended."""
        ended = {
            image
            for image, outcome in zip(images, outcomes, strict=True)
            if outcome is not None and not isinstance(outcome, Progress)
        }
        self.images = [image for image in self.images if image not in ended]

    def _decide(self, now: float, images: Sequence[Image]) -> Dispatch | WaitUntil:
        device = Device(self.limits.limit, self.seconds)
        return decide(now, [image.sample() for image in images], device)
