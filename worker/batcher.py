"""The batcher: holds images, and has the passes run that `scheduler.policy` chooses; the event loop's side of `worker.device`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Final

from contracts.clock import Clock
from contracts.engine import BatchKey, ImageTask, Progress
from scheduler.cost import CostModel
from telemetry import tracing
from worker.active_images import ActiveImages
from worker.device import Device
from worker.engine.host import EngineHost
from worker.images import Image, ImageResult, ScheduleKey

STOP_S: Final = 5.0


class Batcher:
    """Owns the device of a host whose engine has been started. `run` it as a task; `add` images from the same event loop."""

    def __init__(
        self,
        host: EngineHost,
        max_batch: int,
        clock: Clock,
        cost: CostModel | None = None,
        room_changed: asyncio.Event | None = None,
    ) -> None:
        """`cost`: what is known of the passes so far. `room_changed` is set when there may be room for more images."""
        self._clock = clock
        self._max_batch = max_batch
        self._ids = itertools.count()
        self._active = ActiveImages(max_batch, cost or CostModel())
        self._device = Device(host, self._active, clock, room_changed or asyncio.Event())
        self._changed = self._device.changed
        """Guards hand and device."""

    async def run(self) -> None:
        """Pass after pass until `drain`. Raises `EngineLoadError` when a crashed engine does not come back."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        self._device.start(loop, ended)
        await ended

    def add(
        self,
        key: BatchKey,
        task: ImageTask,
        turn: ScheduleKey,
        on_step: Callable[[Progress], object] = lambda _: None,
    ) -> asyncio.Future[ImageResult]:
        """One image to draw. Cancel the future to withdraw it, which takes effect before its next step, or the one after where the engine
        has been handed that; it is canceled when the batcher drains, and raises `TooLate`. `on_step` hears of every step but the last."""
        drawn: asyncio.Future[ImageResult] = asyncio.get_running_loop().create_future()
        image = Image(next(self._ids), key, task, turn, drawn, on_step, traceparent=tracing.current())
        with self._changed:
            if self._device.draining:
                drawn.cancel()
            else:
                if not self._active.images:
                    self._device.last_progress_at = self._clock.monotonic()
                self._active.images.append(image)
                self._device.active_changed()
        return drawn

    def expect(self, images: int) -> None:
        """So many images in all are on their way: taken from the store, and not added yet."""
        with self._changed:
            self._device.incoming = images
            self._device.active_changed()

    def room(self) -> int:
        """How many more images to bring for the next pass."""
        with self._changed:
            return self._active.room() - self._device.incoming

    def observe_fetch(self, seconds: float) -> None:
        """A journey to the store for more images has taken that long."""
        with self._changed:
            self._device.flights.fetch_latency.observe(seconds)

    def fetch_due_in_s(self) -> float:
        """Seconds until it is time to bring the images of the next pass: shortly before it is handed over, so that those who come
        meanwhile may still be among them; 0.0 while nobody knows when that is."""
        with self._changed:
            return self._device.flights.fetch_due_in_s()

    def backlog_steps(self) -> int:
        """Denoising steps that what is in hand still needs."""
        with self._changed:
            return sum(image.steps_left for image in self._active.images)

    def stalled_s(self) -> float:
        """How long images have been in hand without a pass ending; 0.0 while nothing waits."""
        with self._changed:
            return self._clock.monotonic() - self._device.last_progress_at if self._active.images else 0.0

    def drain(self) -> None:
        """Let what has been begun finish, begin no other, and cancel all that waits."""
        with self._changed:
            self._device.draining = True
            self._changed.notify()
            withdrawn = [image for image in self._active.images if not image.begun]
        for image in withdrawn:
            image.result.cancel()

    def steps_per_s(self) -> float:
        """Images times steps that the device does a second under load, by the passes so far; 0.0 before the first."""
        with self._changed:
            return self._active.cost.steps_per_s(self._max_batch)

    def learnt(self) -> CostModel:
        """A copy of what is known of the passes' cost, from any thread."""
        with self._changed:
            return self._active.cost.copy()

    async def stop(self) -> None:
        """End the engine, in the middle of a pass if need be."""
        self.drain()
        await asyncio.to_thread(self._device.stop, STOP_S)
