"""Writes a job's progress to the store, in a separate task.

Steps in between two writes are left out.
"""

from __future__ import annotations

import asyncio

from contracts.engine import Progress
from contracts.errors import StoreUnavailable
from contracts.jobs import Lease
from contracts.ports.job_store import JobStore
from telemetry import metrics


class ProgressReporter:
    """Writes how far a job is. One write runs at a time; the next one writes the latest step."""

    def __init__(self, jobs: JobStore, lease: Lease) -> None:
        self._jobs = jobs
        self._lease = lease
        self._latest: Progress | None = None
        self._task: asyncio.Task[None] | None = None

    def report(self, progress: Progress) -> None:
        """Write this step soon, unless a later one comes first. Returns at once."""
        self._latest = progress
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write())

    async def end(self) -> None:
        """Wait for the write that runs. Later steps are not written any more."""
        self._latest = None
        if self._task is not None:
            await self._task

    async def _write(self) -> None:
        while (progress := self._latest) is not None:
            self._latest = None
            try:
                await self._jobs.progress(self._lease, progress.step, progress.steps)
            except StoreUnavailable:
                metrics.REPAIRED.labels("progress").inc()
