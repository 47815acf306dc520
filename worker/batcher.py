"""The batcher: gathers images, and whenever the device is free runs what `scheduler.policy` chooses."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar, TypeVarTuple

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

T = TypeVar("T")
Given = TypeVarTuple("Given")

RESTART_DELAYS_S: Final = (0.0, 1.0, 5.0)

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


class Batcher:
    """Owns the engine. `start`, then `run` as a task; `add` images from the same event loop."""

    def __init__(self, host: EngineHost, settings: WorkerSettings) -> None:
        self._host = host
        self._limits = BatchLimits(settings.max_batch)
        self._waiting: list[_Image] = []
        self._woken = asyncio.Event()
        self._draining = False
        self._groups = itertools.count(ANYONE + 1)
        # The device is driven by one thread, and by none of those that others may use up.
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._max_batch = settings.max_batch
        self._cost = CostModel()

    async def start(self) -> ModelSpec:
        """Load the model. Raises `EngineUnloadable`."""
        return await self._on_device(self._host.start)

    def add(self, key: BatchKey, task: ImageTask) -> asyncio.Future[Drawn]:
        """One image to draw. Cancel the future to withdraw it; it is canceled when the batcher drains."""
        image = _Image(key, task, asyncio.get_running_loop().create_future())
        if self._draining:
            image.drawn.cancel()
        else:
            self._waiting.append(image)
            self._woken.set()
        return image.drawn

    def drain(self) -> None:
        """Let the running batch finish, start no other, and cancel all that waits."""
        self._draining = True
        for image in self._waiting:
            image.drawn.cancel()
        self._woken.set()

    async def run(self) -> None:
        """Batch after batch until `drain`. Raises `EngineUnloadable` when a crashed engine does not come back."""
        while True:
            # Withdrawn meanwhile, or drained.
            self._waiting = [image for image in self._waiting if not image.drawn.done()]
            chosen = choose([Waiting(image.key, image.group) for image in self._waiting], self._limits.limit)
            if chosen:
                await self._run_batch([self._waiting[index] for index in chosen])
            elif self._draining:
                return
            else:
                self._woken.clear()
                await self._woken.wait()

    def images_per_s(self) -> float:
        """What the device does under load, by the batches so far; 0.0 before the first."""
        return self._cost.images_per_s(self._max_batch)

    async def stop(self) -> None:
        """End the engine, in the middle of a batch if need be."""
        await asyncio.to_thread(self._host.kill)
        self._device.shutdown(wait=False)

    async def _run_batch(self, images: list[_Image]) -> None:
        self._waiting = [image for image in self._waiting if image not in images]
        key, size = images[0].key, len(images)
        answer = await self._on_device(self._host.run, Batch(key, [image.task for image in images]))
        outcome = "done" if isinstance(answer, Done) else answer.failure.value
        metrics.BATCHES.labels(key.model, outcome).inc()
        if isinstance(answer, Done):
            self._limits.fitted(key, size)
            self._cost.ran(key, size, answer.seconds)
            metrics.BATCH_SIZE.labels(key.model).observe(size)
            metrics.BATCH_SECONDS.labels(key.model).observe(answer.seconds)
            for image, drawn in zip(images, answer.images, strict=True):
                _settle(image, Drawn(drawn, answer.seconds * 1000, size))
            return
        log.warning("batch_failed", failure=answer.failure.value, reason=answer.reason, images=size)
        if answer.failure is Failure.OUT_OF_MEMORY:
            self._limits.out_of_memory(key, size)
        self._again(images, answer)
        if answer.failure is Failure.CRASH and not self._draining:
            await self._restart(key.model)

    def _again(self, images: list[_Image], failed: Failed) -> None:
        """Give up the culprit; put the others back where they were: in front, for they are the oldest."""
        verdicts = after_failure(
            failed.failure,
            [image.group for image in images],
            [image.crashes for image in images],
            lambda: next(self._groups),
        )
        code, words = _FAULTS[failed.failure]
        back = []
        for image, verdict in zip(images, verdicts, strict=True):
            if isinstance(verdict, GiveUp):
                fault = ImageFault(code, words.format(failed.reason))
                _settle(image, Drawn(fault, 0.0, len(images)))
            elif self._draining:
                image.drawn.cancel()
            else:
                image.group = verdict.group
                image.crashes += failed.failure is Failure.CRASH
                back.append(image)
        self._waiting[:0] = back

    async def _restart(self, model: str) -> None:
        metrics.ENGINE_RESTARTS.labels(model, "crash").inc()
        for delay_s in RESTART_DELAYS_S:
            await asyncio.sleep(delay_s)
            try:
                await self._on_device(self._host.start)
            except EngineUnloadable as error:
                reason = error
                log.error("engine_restart_failed", reason=str(error))
            else:
                log.info("engine_restarted")
                return
        raise reason

    async def _on_device(self, work: Callable[[*Given], T], *arguments: *Given) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._device, work, *arguments)


def _settle(image: _Image, drawn: Drawn) -> None:
    if not image.drawn.done():
        image.drawn.set_result(drawn)
