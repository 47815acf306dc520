"""What a job's first picture looks like so far: encoded, stored and told while the device works on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from contracts import engine
from contracts.errors import StoreUnavailable
from contracts.jobs import Lease, Preview
from contracts.requests import GenerationRequest
from contracts.tasks import end
from store.stores import Stores
from telemetry import metrics
from telemetry.logs import get_logger
from worker.encode import Encoder, Output

LAST_S: Final = 0.5
"""The picture waits no longer than this for its last preview."""

log = get_logger(__name__)


class PreviewPublisher:
    """Shows the previews of one job, in order. One that cannot be stored or told is left out: the job goes on without it."""

    def __init__(self, stores: Stores, encoder: Encoder, lease: Lease, request: GenerationRequest) -> None:
        self._stores = stores
        self._encoder = encoder
        self._lease = lease
        # What goes into the file of the picture is not true of one that is not finished.
        self._output = replace(Output.of(request, 0), text=None)
        self._waiting: list[engine.Preview] = []
        self._task: asyncio.Task[None] | None = None

    def show(self, preview: engine.Preview) -> None:
        """Returns at once."""
        self._waiting.append(preview)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._show())

    async def end(self) -> None:
        """What is not shown within a moment is old news: the picture itself is there, or never will be."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=LAST_S)
            (error,) = await end(self._task)
            if isinstance(error, Exception):
                log.error("preview_failed", job_id=self._lease.job_id, error=type(error).__name__)

    async def _show(self) -> None:
        while self._waiting:
            preview = self._waiting.pop(0)
            file = await self._encoder.encode(preview.pixels, self._output)
            try:
                name = file.name or await self._stores.blobs.put(file.data, file.format)
                await self._stores.jobs.preview(self._lease, Preview(index=preview.index, name=name))
            except StoreUnavailable:
                metrics.REPAIRED.labels("preview").inc()
