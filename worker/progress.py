"""What the store hears of a job's steps, on a task of its own: the newest, however many were taken while it was told."""

from __future__ import annotations

import asyncio

from contracts.engine import Progress
from contracts.errors import StoreUnavailable
from contracts.job_store import JobStore
from contracts.jobs import Lease
from telemetry import metrics


class ProgressReporter:
    """Tells the store how far a job is: one word under way at a time, and then the latest."""

    def __init__(self, jobs: JobStore, lease: Lease) -> None:
        self._jobs = jobs
        self._lease = lease
        self._latest: Progress | None = None
        self._task: asyncio.Task[None] | None = None

    def tell(self, progress: Progress) -> None:
        self._latest = progress
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._tell())

    async def end(self) -> None:
        """What has not been told is old news now."""
        self._latest = None
        if self._task is not None:
            await self._task

    async def _tell(self) -> None:
        while (progress := self._latest) is not None:
            self._latest = None
            try:
                await self._jobs.progress(self._lease, progress.step, progress.steps)
            except StoreUnavailable:
                metrics.REPAIRED.labels("progress").inc()
