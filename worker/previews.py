"""Previews of a job's first image: encoded, stored and announced while the device works on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from contracts import engine
from contracts.errors import StoreUnavailable
from contracts.jobs import Lease, Preview
from contracts.requests import GenerationRequest
from runtime.tasks import end
from store.stores import Stores
from telemetry import metrics
from telemetry.logs import get_logger
from worker.encode import Encoder, Output

LAST_S: Final = 0.5
"""How long the finished image waits for its last preview."""

log = get_logger(__name__)


class PreviewPublisher:
    """Publishes the previews of one job, in order.

    A preview that cannot be stored or announced is left out, and the job goes on.
    """

    def __init__(self, stores: Stores, encoder: Encoder, lease: Lease, request: GenerationRequest) -> None:
        self._stores = stores
        self._encoder = encoder
        self._lease = lease
        # The metadata of the final file would not be true of a preview.
        self._output = replace(Output.of(request, 0), text=None)
        self._waiting: list[engine.Preview] = []
        self._task: asyncio.Task[None] | None = None

    def publish(self, preview: engine.Preview) -> None:
        """Publish this preview after the earlier ones. Returns at once."""
        self._waiting.append(preview)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._publish())

    async def end(self) -> None:
        """Wait up to `LAST_S` for the previews, then drop the rest.

        The image is finished by then, or never will be.
        """
        if self._task is not None:
            await asyncio.wait([self._task], timeout=LAST_S)
            (error,) = await end(self._task)
            if isinstance(error, Exception):
                log.error("preview_failed", job_id=self._lease.job_id, error=type(error).__name__)

    async def _publish(self) -> None:
        while self._waiting:
            preview = self._waiting.pop(0)
            file = await self._encoder.encode(preview.pixels, self._output)
            try:
                name = file.name or await self._stores.blobs.put(file.data, file.format)
                await self._stores.jobs.preview(self._lease, Preview(index=preview.index, name=name))
            except StoreUnavailable:
                metrics.REPAIRED.labels("preview").inc()
