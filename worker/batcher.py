"""The batcher: gathers images, and whenever the device is free runs what `scheduler.policy` chooses.

One thread owns the device and chooses its batches itself. Were it the event loop that chose, the device would idle after each
batch until the loop has come round to it, busy as that is with what became of the batch before.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from dataclasses import dataclass
from typing import Final

from contracts.engine import BatchKey, ImageFault, ImageTask, Pixels
from contracts.errors import EngineCrashed, EngineFault, OutOfMemory
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from scheduler.cost import CostModel
from scheduler.limits import BatchLimits
from scheduler.policy import ANYONE, Waiting, choose
from scheduler.recovery import Failure, GiveUp, after_failure
from telemetry import metrics
from telemetry.logs import get_logger
from worker.engine.host import EngineHost, EngineUnloadable
from worker.engine.wire import Batch, Done, Failed

RESTART_DELAYS_S: Final = (0.0, 1.0, 5.0)
STOP_S: Final = 5.0

_FAULTS: Final = {
    Failure.FAULT: (EngineFault.code, "The model raised {}."),
    Failure.CRASH: (EngineCrashed.code, "{} Twice, under this picture alone."),
    Failure.OUT_OF_MEMORY: (OutOfMemory.code, "{}"),
}

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What became of one image; `batch_size` counts the images of its last batch, which took `batch_ms`."""

    image: Pixels | ImageFault
    batch_ms: float
    batch_size: int


@dataclass(slots=True, eq=False)
class _Image:
    key: BatchKey
    task: ImageTask
    drawn: asyncio.Future[Drawn]
    group: int = ANYONE
    crashes: int = 0
    given_up: bool = False


class Batcher:
    """Owns the engine. `start`, then `run` as a task; `add` images from the same event loop."""

    def __init__(self, host: EngineHost, settings: WorkerSettings) -> None:
        self._host = host
        self._max_batch = settings.max_batch
        self._limits = BatchLimits(settings.max_batch)
        self._cost = CostModel()
        self._groups = itertools.count(ANYONE + 1)
        # Guards what follows; notified when it changes.
        self._changed = threading.Condition()
        self._waiting: list[_Image] = []
        self._draining = False
        self._thread: threading.Thread | None = None

    async def start(self) -> ModelSpec:
        """Load the model. Raises `EngineUnloadable`."""
        return await asyncio.to_thread(self._host.start)

    async def run(self) -> None:
        """Batch after batch until `drain`. Raises `EngineUnloadable` when a crashed engine does not come back."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._work, args=(loop, ended), name="device", daemon=True)
        self._thread.start()
        await ended

    def add(self, key: BatchKey, task: ImageTask) -> asyncio.Future[Drawn]:
        """One image to draw. Cancel the future to withdraw it; it is canceled when the batcher drains."""
        image = _Image(key, task, asyncio.get_running_loop().create_future())
        with self._changed:
            if self._draining:
                image.drawn.cancel()
            else:
                self._waiting.append(image)
                self._changed.notify()
        return image.drawn

    def drain(self) -> None:
        """Let the running batch finish, start no other, and cancel all that waits."""
        with self._changed:
            self._draining = True
            withdrawn, self._waiting = self._waiting, []
            self._changed.notify()
        for image in withdrawn:
            image.drawn.cancel()

    def images_per_s(self) -> float:
        """What the device does under load, by the batches so far; 0.0 before the first."""
        return self._cost.images_per_s(self._max_batch)

    async def stop(self) -> None:
        """End the engine, in the middle of a batch if need be."""
        self.drain()
        await asyncio.to_thread(self._host.kill)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_S)

    def _work(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        """The device's thread. What becomes of images is told to the event loop, to which their futures belong."""
        reason: Exception | None = RuntimeError("The device's thread crashed.")
        try:
            while batch := self._next():
                answer = self._run_batch(batch)
                loop.call_soon_threadsafe(self._tell, batch, answer)
                if isinstance(answer, Failed) and answer.failure is Failure.CRASH and not self._draining:
                    self._restart(batch[0].key.model)
            reason = None
        except EngineUnloadable as error:
            reason = error
        finally:
            loop.call_soon_threadsafe(_end, ended, reason)

    def _next(self) -> list[_Image]:
        """The next batch, waited for; empty when the batcher drains."""
        with self._changed:
            while True:
                # Some may have been withdrawn meanwhile.
                self._waiting = [image for image in self._waiting if not image.drawn.done()]
                chosen = choose(
                    [Waiting(image.key, image.group) for image in self._waiting], self._limits.limit
                )
                if chosen:
                    batch = [self._waiting[index] for index in chosen]
                    self._waiting = [image for image in self._waiting if image not in batch]
                    return batch
                if self._draining:
                    return []
                self._changed.wait()

    def _run_batch(self, images: list[_Image]) -> Done | Failed:
        """The engine's answer; those that must run again are back in front, for they are the oldest."""
        key, size = images[0].key, len(images)
        answer = self._host.run(Batch(key, [image.task for image in images]))
        outcome = "done" if isinstance(answer, Done) else answer.failure.value
        metrics.BATCHES.labels(key.model, outcome).inc()
        if isinstance(answer, Done):
            self._limits.fitted(key, size)
            self._cost.ran(key, size, answer.seconds)
            metrics.BATCH_SIZE.labels(key.model).observe(size)
            metrics.BATCH_SECONDS.labels(key.model).observe(answer.seconds)
            return answer
        log.warning("batch_failed", failure=answer.failure.value, reason=answer.reason, images=size)
        if answer.failure is Failure.OUT_OF_MEMORY:
            self._limits.out_of_memory(key, size)
        verdicts = after_failure(
            answer.failure,
            [image.group for image in images],
            [image.crashes for image in images],
            lambda: next(self._groups),
        )
        for image, verdict in zip(images, verdicts, strict=True):
            image.given_up = isinstance(verdict, GiveUp)
            if not isinstance(verdict, GiveUp):
                image.group = verdict.group
                image.crashes += answer.failure is Failure.CRASH
        with self._changed:
            if not self._draining:
                self._waiting[:0] = [image for image in images if not image.given_up]
        return answer

    def _tell(self, images: list[_Image], answer: Done | Failed) -> None:
        """On the event loop: hand out what the batch became."""
        if isinstance(answer, Done):
            for image, drawn in zip(images, answer.images, strict=True):
                _settle(image.drawn, Drawn(drawn, answer.seconds * 1000, len(images)))
            return
        code, words = _FAULTS[answer.failure]
        fault = Drawn(ImageFault(code, words.format(answer.reason)), 0.0, len(images))
        for image in images:
            if image.given_up:
                _settle(image.drawn, fault)
            elif self._draining:
                image.drawn.cancel()

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


def _settle(drawn: asyncio.Future[Drawn], value: Drawn) -> None:
    if not drawn.done():
        drawn.set_result(value)


def _end(ended: asyncio.Future[None], reason: Exception | None) -> None:
    if ended.done():
        return
    if reason is None:
        ended.set_result(None)
    else:
        ended.set_exception(reason)
