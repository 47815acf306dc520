"""The batcher: holds images, and whenever the device is free runs the pass that `scheduler.policy` chooses.

One thread owns the device and chooses its passes itself. Were it the event loop that chose, the device would idle after each
pass until the loop has come round to it, busy as that is with what became of the pass before.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from contracts.clock import Clock
from contracts.engine import BatchKey, ImageFault, ImageTask, Pass, Pixels, Progress
from contracts.errors import EngineCrashed, EngineFault, OutOfMemory
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from scheduler.ahead import Held, Lead, places
from scheduler.cost import CostModel
from scheduler.limits import BatchLimits
from scheduler.policy import ANYONE, Device, Dispatch, Sample, decide
from scheduler.recovery import Failure, GiveUp, after_failure
from telemetry import metrics, tracing
from telemetry.logs import get_logger
from worker.engine.host import EngineHost, EngineUnloadable
from worker.engine.wire import DeviceMemory, Done, Failed

RESTART_DELAYS_S: Final = (0.0, 1.0, 5.0)
STOP_S: Final = 5.0

_FAULTS: Final = {
    Failure.FAULT: (EngineFault.code, "The model raised {}."),
    Failure.CRASH: (EngineCrashed.code, "{} Twice, under this picture alone."),
    Failure.OUT_OF_MEMORY: (OutOfMemory.code, "{}"),
}

log = get_logger(__name__)


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
class _Image:
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
    batch_ms: float = 0.0
    batch_size: int = 0
    traceparent: str | None = None

    def sample(self) -> Sample:
        steps_left = self.task.steps - self.steps_taken
        turn = self.turn
        return Sample(self.key, turn.tag, turn.deadline, steps_left, self.steps_taken, self.group)

    def start_over(self) -> None:
        self.begun, self.steps_taken = False, 0


Outcome = Progress | Drawn | TooLate
"""What the event loop is told of an image."""


class Batcher:
    """Owns the engine. `start`, then `run` as a task; `add` images from the same event loop."""

    def __init__(self, host: EngineHost, settings: WorkerSettings, clock: Clock) -> None:
        self._host = host
        self._clock = clock
        self._max_batch = settings.max_batch
        self._limits = BatchLimits(settings.max_batch)
        self._groups = itertools.count(ANYONE + 1)
        self._ids = itertools.count()
        self.cost = CostModel()
        """What passes take; the device's thread writes it, and whoever else asks asks `learnt`."""
        self.lead = Lead()
        self.on_room: Callable[[], object] = lambda: None
        """Called on the event loop when there may be room for more images."""
        # Guards what follows; notified when it changes.
        self._changed = threading.Condition()
        self._hand: list[_Image] = []
        self._begun_at = self._ends_at = 0.0
        self._draining = False
        self._moved_at = clock.monotonic()
        self._thread: threading.Thread | None = None

    async def start(self) -> ModelSpec:
        """Load the model. Raises `EngineUnloadable`."""
        spec = await asyncio.to_thread(self._host.start)
        # The model may leave less room than was asked for.
        self._max_batch = min(self._max_batch, spec.max_batch)
        self._limits = BatchLimits(self._max_batch)
        return spec

    async def run(self) -> None:
        """Pass after pass until `drain`. Raises `EngineUnloadable` when a crashed engine does not come back."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._work, args=(loop, ended), name="device", daemon=True)
        self._thread.start()
        await ended

    def add(
        self,
        key: BatchKey,
        task: ImageTask,
        turn: Turn,
        on_step: Callable[[Progress], object] = lambda _: None,
    ) -> asyncio.Future[Drawn]:
        """One image to draw. Cancel the future to withdraw it, which takes effect before its next step; it is canceled
        when the batcher drains, and raises `TooLate`. `on_step` hears of every step but the last."""
        drawn: asyncio.Future[Drawn] = asyncio.get_running_loop().create_future()
        image = _Image(next(self._ids), key, task, turn, drawn, on_step, traceparent=tracing.current())
        with self._changed:
            if self._draining:
                drawn.cancel()
            else:
                if not self._hand:
                    self._moved_at = self._clock.monotonic()
                self._hand.append(image)
                self._changed.notify()
        return drawn

    def room(self) -> int:
        """How many more images to bring for the next pass."""
        with self._changed:
            # Those on their last step are as good as gone.
            held, ending = list[Held](), 0
            for image in self._hand:
                if image.drawn.done():
                    continue
                if image.begun and image.steps_taken + 1 == image.task.steps:
                    ending += 1
                else:
                    held.append(Held(image.key, image.turn.tag, image.begun))
            return places(held, ending, self._max_batch)

    def ripe_in_s(self) -> float:
        """Seconds until it is time to bring the images of the next pass: shortly before the present one should end, so that
        those who come meanwhile may still be among them; 0.0 while nobody knows how long it takes."""
        with self._changed:
            lead_s = self.lead.seconds(self._ends_at - self._begun_at)
            return max(0.0, self._ends_at - lead_s - self._clock.monotonic())

    def backlog_steps(self) -> int:
        """Denoising steps that what is in hand still needs."""
        with self._changed:
            return sum(image.task.steps - image.steps_taken for image in self._hand)

    def stalled_s(self) -> float:
        """How long images have been in hand without a pass ending; 0.0 while nothing waits."""
        with self._changed:
            return self._clock.monotonic() - self._moved_at if self._hand else 0.0

    def drain(self) -> None:
        """Let what has been begun finish, begin no other, and cancel all that waits."""
        with self._changed:
            self._draining = True
            self._changed.notify()
            withdrawn = [image for image in self._hand if not image.begun]
        for image in withdrawn:
            image.drawn.cancel()

    def steps_per_s(self) -> float:
        """Images times steps that the device does a second under load, by the passes so far; 0.0 before the first."""
        with self._changed:
            return self.cost.steps_per_s(self._max_batch)

    def learnt(self) -> CostModel:
        """A copy of what is known of the passes' cost, from any thread."""
        with self._changed:
            return self.cost.copy()

    async def stop(self) -> None:
        """End the engine, in the middle of a pass if need be."""
        self.drain()
        await asyncio.to_thread(self._host.kill)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_S)

    def _work(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        """The device's thread. What becomes of images is told to the event loop, to which their futures belong."""
        reason: Exception | None = RuntimeError("The device's thread crashed.")
        try:
            while (chosen := self._next(loop)) is not None:
                batch, images = chosen
                with _traced(batch, images) as span:
                    answer = self._host.run(batch)
                    if isinstance(answer, Failed):
                        span.fail(answer.failure.value)
                self._moved_at = self._clock.monotonic()
                outcomes = self._digest(images, answer, span.traceparent)
                loop.call_soon_threadsafe(self._tell, images, outcomes)
                if isinstance(answer, Failed) and answer.failure is Failure.CRASH and not self._draining:
                    self._restart(batch.key.model)
            reason = None
        except EngineUnloadable as error:
            reason = error
        finally:
            loop.call_soon_threadsafe(self._end, ended, reason)

    def _next(self, loop: asyncio.AbstractEventLoop) -> tuple[Pass, list[_Image]] | None:
        """The next pass, waited for; None when the batcher drains."""
        leaving: list[int] = []
        with self._changed:
            while True:
                # Some may have been withdrawn meanwhile.
                leaving += [image.id for image in self._hand if image.begun and image.drawn.done()]
                self._hand = [image for image in self._hand if not image.drawn.done()]
                if self._draining:
                    for image in self._hand:
                        if not image.begun:
                            loop.call_soon_threadsafe(image.drawn.cancel)
                    self._hand = [image for image in self._hand if image.begun]
                    if not self._hand:
                        return None
                decision = decide(
                    self._clock.monotonic(),
                    [image.sample() for image in self._hand],
                    Device(self._limits.limit, self._seconds),
                )
                images = (
                    [self._hand[index] for index in decision.batch] if isinstance(decision, Dispatch) else []
                )
                if decision.late:
                    late = [self._hand[index] for index in decision.late]
                    leaving += [image.id for image in late if image.begun]
                    for key in {image.key for image in late}:
                        self.cost.gave_up(key)
                    self._hand = [image for image in self._hand if image not in late]
                    loop.call_soon_threadsafe(self._tell, late, [TooLate()] * len(late))
                if images:
                    break
                self._changed.wait()
            joining = {image.id: image.task for image in images if not image.begun}
            for image in images:
                image.begun = True
            self._begun_at = self._clock.monotonic()
            self._ends_at = self._begun_at + self._seconds(images[0].key, len(images))
        loop.call_soon_threadsafe(self.on_room)
        return Pass(images[0].key, tuple(image.id for image in images), joining, tuple(leaving)), images

    def _seconds(self, key: BatchKey, images: int) -> float:
        return self.cost.seconds(key, images) or 0.0

    def _digest(
        self, images: list[_Image], answer: Done | Failed, traceparent: str | None
    ) -> list[Outcome | None]:
        """What became of each image of a pass; None: it runs again. Those that have ended leave the hand."""
        self._ends_at = 0.0
        key, size = images[0].key, len(images)
        outcome = "done" if isinstance(answer, Done) else answer.failure.value
        metrics.BATCHES.labels(key.model, outcome).inc()
        if isinstance(answer, Done):
            self._limits.fitted(key, size)
            with self._changed:
                self.cost.ran(key, size, answer.seconds, answer.memory_bytes)
            metrics.BATCH_SIZE.labels(key.model).observe(size)
            metrics.BATCH_SECONDS.labels(key.model).observe(answer.seconds)
            metrics.STEPS.labels(key.model).inc(size)
            _report_memory(key.model, answer.device)
            outcomes: list[Outcome | None] = []
            for image, advanced in zip(images, answer.samples, strict=True):
                image.batch_ms += answer.seconds * 1000
                image.batch_size = max(image.batch_size, size)
                if isinstance(advanced, Progress):
                    image.steps_taken = advanced.step
                    outcomes.append(advanced)
                else:
                    outcomes.append(Drawn(advanced, image.batch_ms, image.batch_size, traceparent))
        else:
            log.warning("batch_failed", failure=answer.failure.value, reason=answer.reason, images=size)
            outcomes = self._verdicts(images, answer)
        ended = {
            image for image, each in zip(images, outcomes, strict=True) if isinstance(each, Drawn | TooLate)
        }
        with self._changed:
            self._hand = [image for image in self._hand if image not in ended]
        return outcomes

    def _verdicts(self, images: list[_Image], answer: Failed) -> list[Outcome | None]:
        size = len(images)
        if answer.failure is Failure.OUT_OF_MEMORY:
            self._limits.out_of_memory(images[0].key, size)
        verdicts = after_failure(
            answer.failure,
            [image.group for image in images],
            [image.crashes for image in images],
            lambda: next(self._groups),
        )
        with self._changed:
            # The engine has forgotten the samples of a failed pass, and with it dies the memory of all others.
            crashed = answer.failure is Failure.CRASH
            for image in self._hand if crashed else images:
                image.start_over()
        code, words = _FAULTS[answer.failure]
        outcomes: list[Outcome | None] = []
        for image, verdict in zip(images, verdicts, strict=True):
            if isinstance(verdict, GiveUp):
                outcomes.append(Drawn(ImageFault(code, words.format(answer.reason)), image.batch_ms, size))
            else:
                image.group = verdict.group
                image.crashes += answer.failure is Failure.CRASH
                outcomes.append(None)
        return outcomes

    def _tell(self, images: Sequence[_Image], outcomes: Sequence[Outcome | None]) -> None:
        """On the event loop: hand out what the pass made of its images."""
        for image, outcome in zip(images, outcomes, strict=True):
            if image.drawn.done():
                continue
            if isinstance(outcome, Drawn):
                image.drawn.set_result(outcome)
            elif isinstance(outcome, TooLate):
                image.drawn.set_exception(outcome)
            elif outcome is not None:
                image.on_step(outcome)
        self.on_room()

    def _restart(self, model: str) -> None:
        metrics.ENGINE_RESTARTS.labels(model, "crash").inc()
        for number, delay_s in enumerate(RESTART_DELAYS_S, start=1):
            time.sleep(delay_s)
            try:
                self._host.start()
            except EngineUnloadable as error:
                log.error("engine_restart_failed", reason=str(error))
                if number == len(RESTART_DELAYS_S):
                    raise
            else:
                log.info("engine_restarted")
                return

    def _end(self, ended: asyncio.Future[None], reason: Exception | None) -> None:
        """On the event loop, behind all that was told: nothing that is still in hand will be drawn."""
        for image in self._hand:
            image.drawn.cancel()
        if ended.done():
            return
        if reason is None:
            ended.set_result(None)
        else:
            ended.set_exception(reason)


def _traced(batch: Pass, images: Sequence[_Image]) -> AbstractContextManager[tracing.Span]:
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


def _report_memory(model: str, memory: DeviceMemory | None) -> None:
    if memory is not None:
        metrics.DEVICE_MEMORY.labels(model, memory.device).set(memory.used_bytes)
        metrics.DEVICE_MEMORY_LIMIT.labels(model, memory.device).set(memory.limit_bytes)
