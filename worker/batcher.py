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
from typing import Final

from contracts.clock import Clock
from contracts.engine import BatchKey, ImageFault, ImageTask, Pass, Progress
from contracts.errors import EngineCrashed, EngineFault, OutOfMemory, WorkerFault
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from scheduler.ahead import Held, Lead, places
from scheduler.cost import CostModel
from scheduler.limits import BatchLimits
from scheduler.policy import ANYONE, Device, Dispatch, WaitUntil, decide
from scheduler.recovery import Failure, GiveUp, after_failure, culprits
from telemetry import metrics, tracing
from telemetry.logs import get_logger
from worker.engine.host import EngineHost, EngineUnloadable
from worker.engine.wire import Done, Failed
from worker.images import Drawn, Image, Outcome, TooLate, Turn
from worker.reports import log_broken, report_memory, traced

RESTART_DELAYS_S: Final = (0.0, 1.0, 5.0)
STOP_S: Final = 5.0
PATIENCE: Final = 3
"""Times in a row that the policy may raise without anybody to blame for it."""

_FAULTS: Final = {
    Failure.FAULT: (EngineFault.code, "The model raised {}."),
    Failure.CRASH: (EngineCrashed.code, "{} Twice, under this picture alone."),
    Failure.OUT_OF_MEMORY: (OutOfMemory.code, "{}"),
}

log = get_logger(__name__)


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
        self._hand: list[Image] = []
        self._leaving: list[int] = []
        """Samples that the engine is to forget with the next pass."""
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
        image = Image(next(self._ids), key, task, turn, drawn, on_step, traceparent=tracing.current())
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
                if image.begun and image.steps_left == 1:
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
            return sum(image.steps_left for image in self._hand)

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
                outcomes, crashed = self._draw(batch, images)
                self._moved_at = self._clock.monotonic()
                loop.call_soon_threadsafe(self._tell_all, images, outcomes)
                if crashed and not self._draining:
                    self._restart(batch.key.model)
            reason = None
        except EngineUnloadable as error:
            reason = error
        finally:
            loop.call_soon_threadsafe(self._end, ended, reason)

    def _draw(self, batch: Pass, images: list[Image]) -> tuple[list[Outcome | None], bool]:
        """One pass: what became of each image, and whether the engine is gone. Whatever our own code raises is held against the
        images of the pass as if the model had raised: they are bisected, and one alone is given up."""
        crashed = False
        try:
            with traced(batch, images) as span:
                answer = self._host.run(batch)
                if isinstance(answer, Failed):
                    span.fail(answer.failure.value)
            crashed = isinstance(answer, Failed) and answer.failure is Failure.CRASH
            return self._digest(images, answer, span.traceparent), crashed
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker must outlive it
            log_broken("batch_broken", error, len(images))
            metrics.BATCHES.labels(batch.key.model, "broken").inc()
            return self._verdicts(images, Failure.FAULT, WorkerFault.of(error), crashed=crashed), crashed

    def _next(self, loop: asyncio.AbstractEventLoop) -> tuple[Pass, list[Image]] | None:
        """The next pass, waited for; None when the batcher drains."""
        raised = 0
        with self._changed:
            while True:
                # Some may have been withdrawn meanwhile.
                self._drop([image for image in self._hand if image.drawn.done()])
                if self._draining:
                    for image in self._hand:
                        if not image.begun:
                            loop.call_soon_threadsafe(image.drawn.cancel)
                    self._hand = [image for image in self._hand if image.begun]
                    if not self._hand:
                        return None
                try:
                    images, late, seconds = self._choose()
                except Exception as error:  # noqa: BLE001 - whatever it is, the worker must outlive it
                    raised += 1
                    self._blame(loop, error, everybody=raised >= PATIENCE)
                    continue
                if late:
                    self._drop(late)
                    loop.call_soon_threadsafe(self._tell_all, late, [TooLate()] * len(late))
                if images:
                    break
                self._changed.wait()
            joining = {image.id: image.task for image in images if not image.begun}
            for image in images:
                image.begun = True
            self._begun_at = self._clock.monotonic()
            self._ends_at = self._begun_at + seconds
            leaving, self._leaving = tuple(self._leaving), []
        loop.call_soon_threadsafe(self.on_room)
        return Pass(images[0].key, tuple(image.id for image in images), joining, leaving), images

    def _choose(self) -> tuple[list[Image], list[Image], float]:
        """The images of the next pass, those that are late, and how many seconds the pass should take."""
        decision = self._decide(self._hand)
        late = [self._hand[index] for index in decision.late]
        for key in {image.key for image in late}:
            self.cost.gave_up(key)
        if isinstance(decision, WaitUntil):
            return [], late, 0.0
        images = [self._hand[index] for index in decision.batch]
        return images, late, self._seconds(images[0].key, len(images))

    def _decide(self, hand: Sequence[Image]) -> Dispatch | WaitUntil:
        device = Device(self._limits.limit, self._seconds)
        return decide(self._clock.monotonic(), [image.sample() for image in hand], device)

    def _blame(self, loop: asyncio.AbstractEventLoop, error: Exception, *, everybody: bool) -> None:
        """The policy has raised: those for whom it does are given up, so that the others get on. Where nobody is found, another
        try may go well; `everybody`: it has not."""

        def breaks(images: Sequence[Image]) -> bool:
            try:
                self._decide(images)
            except Exception:  # noqa: BLE001 - whatever it is
                return True
            return False

        blamed = culprits(self._hand, breaks) or (list(self._hand) if everybody else [])
        log_broken("policy_broken", error, len(blamed))
        self._drop(blamed)
        loop.call_soon_threadsafe(self._tell_all, blamed, [WorkerFault.of(error) for _ in blamed])

    def _drop(self, images: Sequence[Image]) -> None:
        """Out of hand, and out of the engine's memory with the next pass."""
        self._leaving += [image.id for image in images if image.begun]
        gone = set(images)
        self._hand = [image for image in self._hand if image not in gone]

    def _seconds(self, key: BatchKey, images: int) -> float:
        return self.cost.seconds(key, images) or 0.0

    def _digest(
        self, images: list[Image], answer: Done | Failed, traceparent: str | None
    ) -> list[Outcome | None]:
        """What became of each image of a pass; None: it runs again. Those that have ended leave the hand."""
        self._ends_at = 0.0
        key, size = images[0].key, len(images)
        outcome = "done" if isinstance(answer, Done) else answer.failure.value
        metrics.BATCHES.labels(key.model, outcome).inc()
        if isinstance(answer, Failed):
            log.warning("batch_failed", failure=answer.failure.value, reason=answer.reason, images=size)
            if answer.failure is Failure.OUT_OF_MEMORY:
                self._limits.out_of_memory(key, size)
            code, words = _FAULTS[answer.failure]
            fault = ImageFault(code, words.format(answer.reason))
            return self._verdicts(images, answer.failure, fault, crashed=answer.failure is Failure.CRASH)
        self._limits.fitted(key, size)
        with self._changed:
            self.cost.ran(key, size, answer.seconds, answer.memory_bytes)
        metrics.BATCH_SIZE.labels(key.model).observe(size)
        metrics.BATCH_SECONDS.labels(key.model).observe(answer.seconds)
        metrics.STEPS.labels(key.model).inc(size)
        report_memory(key.model, answer.device)
        outcomes: list[Outcome | None] = []
        for image, advanced in zip(images, answer.samples, strict=True):
            image.batch_ms += answer.seconds * 1000
            image.batch_size = max(image.batch_size, size)
            if isinstance(advanced, Progress):
                image.steps_taken, image.steps = advanced.step, advanced.steps
                outcomes.append(advanced)
            else:
                outcomes.append(Drawn(advanced, image.batch_ms, image.batch_size, traceparent))
        self._forget(images, outcomes)
        return outcomes

    def _verdicts(
        self, images: list[Image], failure: Failure, fault: ImageFault | WorkerFault, *, crashed: bool
    ) -> list[Outcome | None]:
        """What becomes of the images of a pass that failed as a whole: they run again, or end with `fault`."""
        verdicts = after_failure(
            failure,
            [image.group for image in images],
            [image.crashes for image in images],
            lambda: next(self._groups),
        )
        outcomes: list[Outcome | None] = []
        for image, verdict in zip(images, verdicts, strict=True):
            if isinstance(verdict, GiveUp):
                outcomes.append(
                    fault if isinstance(fault, WorkerFault) else Drawn(fault, image.batch_ms, len(images))
                )
            else:
                image.group = verdict.group
                image.crashes += failure is Failure.CRASH
                outcomes.append(None)
        with self._changed:
            # The engine has forgotten the samples of a pass that failed; not those of one that failed in our hands. With the
            # engine dies the memory of all others.
            if isinstance(fault, WorkerFault):
                self._leaving += [image.id for image in images]
            for image in self._hand if crashed else images:
                image.start_over()
        self._forget(images, outcomes)
        return outcomes

    def _forget(self, images: Sequence[Image], outcomes: Sequence[Outcome | None]) -> None:
        """Those that have ended are out of hand."""
        ended = {
            image
            for image, outcome in zip(images, outcomes, strict=True)
            if outcome is not None and not isinstance(outcome, Progress)
        }
        with self._changed:
            self._hand = [image for image in self._hand if image not in ended]

    def _tell_all(self, images: Sequence[Image], outcomes: Sequence[Outcome | None]) -> None:
        """On the event loop: hand out what the pass made of its images. One that cannot be told has no part in what the others hear."""
        for image, outcome in zip(images, outcomes, strict=True):
            try:
                image.tell(outcome)
            except Exception as error:  # noqa: BLE001 - whatever it is, its job must not hang on it
                log_broken("outcome_untold", error, 1)
                if not image.drawn.done():
                    image.drawn.set_exception(WorkerFault.of(error))
        self.on_room()

    def _restart(self, model: str) -> None:
        metrics.ENGINE_RESTARTS.labels(model, "crash").inc()
        for number, delay_s in enumerate(RESTART_DELAYS_S, start=1):
            time.sleep(delay_s)
            try:
                self._host.start()
            except (EngineUnloadable, OSError) as error:
                log.error("engine_restart_failed", reason=str(error))
                if number == len(RESTART_DELAYS_S):
                    raise EngineUnloadable(str(error)) from error
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
