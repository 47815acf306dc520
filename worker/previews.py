"""What a job's first picture looks like so far: encoded, stored and told while the device works on."""

from __future__ import annotations

import asyncio

from cache.stores import Stores
from contracts import engine
from contracts.errors import StoreUnavailable
from contracts.jobs import GenerationRequest, Lease, Preview
from telemetry import metrics
from worker.encode import Encoder, Output


class Showing:
    """Shows the previews of one job. One that cannot be stored or told is left out: the job goes on without it."""

    def __init__(self, stores: Stores, encoder: Encoder, lease: Lease, request: GenerationRequest) -> None:
        self._stores = stores
        self._encoder = encoder
        self._lease = lease
        self._request = request
        self._tasks: list[asyncio.Task[None]] = []

    def show(self, preview: engine.Preview) -> None:
        """Returns at once."""
        self._tasks.append(asyncio.create_task(self._show(preview)))

    async def end(self) -> None:
        """What has not been shown is old news now: the picture itself is there, or never will be."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _show(self, preview: engine.Preview) -> None:
        file = await self._encoder.encode(preview.pixels, Output.of(self._request, 0))
        try:
            name = await self._stores.blobs.put(file.data, file.format)
            await self._stores.jobs.preview(self._lease, Preview(index=preview.index, name=name))
        except StoreUnavailable:
            metrics.REPAIRED.labels("preview").inc()
