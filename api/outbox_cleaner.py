"""Clears the outbox: removes jobs whose message the broker has, in the background and in groups."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

from api.background import Background
from contracts.errors import StoreUnavailable
from contracts.ports.job_store import JobStore
from telemetry import metrics

LINGER_S: Final = 0.25
"""How long a job waits for others to be cleared with it, in seconds. No client waits for this, and
the sweeper only looks at jobs that are older than a few seconds."""
MAX_GROUP: Final = 256
"""The most jobs in one call to the store."""
MAX_WAITING: Final = 10_000
"""The most jobs that wait to be cleared. Further ones are left to the sweeper, which publishes them
again and then clears them."""


class OutboxCleaner:
    """Takes jobs out of the outbox. No client waits for that.

    A job stays there if the process dies or the store is unavailable. It is then published again,
    and the worker's claim takes it only once.
    """

    def __init__(self, jobs: JobStore, background: Background) -> None:
        self._jobs = jobs
        self._background = background
        self._waiting: deque[str] = deque()
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, job_id: str) -> None:
        """Clear the job `job_id` soon: the broker has its message."""
        if len(self._waiting) >= MAX_WAITING:
            metrics.REPAIRED.labels("confirm").inc()
            return
        self._waiting.append(job_id)
        if self._task is None or self._task.done():
            self._task = self._background.start(self._work())

    def end(self) -> None:
        """From now on clear jobs at once, without waiting for others."""
        self._ending.set()

    async def _work(self) -> None:
        while self._waiting:
            if len(self._waiting) < MAX_GROUP:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LINGER_S):
                        await self._ending.wait()
            group = [self._waiting.popleft() for _ in range(min(MAX_GROUP, len(self._waiting)))]
            try:
                await self._jobs.confirm_many(group)
            except StoreUnavailable:
                metrics.REPAIRED.labels("confirm").inc()
