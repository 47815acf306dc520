"""The batcher: holds the active images, and runs the batches that `scheduler.policy` chooses.

This is the event loop's side of `worker.device`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Final

from contracts.engine import BatchKey, ImageTask, Progress
from contracts.ports.clock import Clock
from scheduler.cost import CostModel
from telemetry import tracing
from worker.active_images import ActiveImages
from worker.device import Device
from worker.engine.host import EngineHost
from worker.images import Image, ImageResult, ScheduleKey

STOP_S: Final = 5.0
"""How long `Batcher.stop` waits for the device's thread."""


class Batcher:
    """Owns the device of a host whose engine has been started.

    `run` it as a task, and `add` images on the same event loop.
    """

    def __init__(
        self,
        host: EngineHost,
        max_batch: int,
        clock: Clock,
        cost: CostModel | None = None,
        room_changed: asyncio.Event | None = None,
    ) -> None:
        """`cost` is what earlier batches took.

        `room_changed` is set when there may be room for more images.
        """
        self._clock = clock
        self._max_batch = max_batch
        self._ids = itertools.count()
        self._active = ActiveImages(max_batch, cost or CostModel())
        self._device = Device(host, self._active, clock, room_changed or asyncio.Event())
        self._changed = self._device.changed
        """Guards the active images and the device."""

    async def run(self) -> None:
        """Run batches until `drain`.

        Raises `EngineLoadError` when a crashed engine cannot be restarted.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        self._device.start(loop, ended)
        await ended

    def add(
        self,
        key: BatchKey,
        task: ImageTask,
        schedule_key: ScheduleKey,
        on_step: Callable[[Progress], object] = lambda _: None,
    ) -> asyncio.Future[ImageResult]:
        """Add one image to generate. Answers a future of its result.

        Cancel the future to withdraw the image. This takes effect before its next step, or one step
        later where the engine already has the next batch. `on_step` is called after every step but
        the last. The future is canceled when the batcher drains before the image starts. It raises
        `TooLate` once the deadline cannot be met, and `WorkerFault` where our own code has raised.
        """
        result: asyncio.Future[ImageResult] = asyncio.get_running_loop().create_future()
        image = Image(
            next(self._ids), key, task, schedule_key, result, on_step, traceparent=tracing.current()
        )
        with self._changed:
            if self._device.draining:
                result.cancel()
            else:
                if not self._active.images:
                    self._device.last_progress_at = self._clock.monotonic()
                self._active.images.append(image)
                self._device.active_changed()
        return result

    def expect(self, images: int) -> None:
        """Set how many images were taken from the store and are not added yet."""
        with self._changed:
            self._device.incoming = images
            self._device.active_changed()

    def room(self) -> int:
        """How many more images to fetch for the next batch."""
        with self._changed:
            return self._active.room() - self._device.incoming

    def observe_fetch(self, seconds: float) -> None:
        """Record how many seconds a fetch of images from the store took."""
        with self._changed:
            self._device.flights.fetch_latency.observe(seconds)

    def fetch_due_in_s(self) -> float:
        """Seconds until the images of the next batch should be fetched; 0.0 while unknown.

        This is shortly before the batch is handed over. Jobs that are submitted by then can still
        join it.
        """
        with self._changed:
            return self._device.flights.fetch_due_in_s()

    def backlog_steps(self) -> int:
        """Denoising steps that the active images still need."""
        with self._changed:
            return sum(image.steps_left for image in self._active.images)

    def stalled_s(self) -> float:
        """Seconds since a batch ended, or the first active image came; 0.0 without active images."""
        with self._changed:
            return self._clock.monotonic() - self._device.last_progress_at if self._active.images else 0.0

    def drain(self) -> None:
        """Let started images finish, start no other, and cancel those that wait."""
        with self._changed:
            self._device.draining = True
            self._changed.notify()
            withdrawn = [image for image in self._active.images if not image.begun]
        for image in withdrawn:
            image.result.cancel()

    def steps_per_s(self) -> float:
        """Denoising steps a second with full batches, by the batches so far; 0.0 before the first."""
        with self._changed:
            return self._active.cost.steps_per_s(self._max_batch)

    def learnt(self) -> CostModel:
        """A copy of the cost model. Safe on any thread."""
        with self._changed:
            return self._active.cost.copy()

    async def stop(self) -> None:
        """Drain, and end the engine at once, even during a batch."""
        self.drain()
        await asyncio.to_thread(self._device.stop, STOP_S)
