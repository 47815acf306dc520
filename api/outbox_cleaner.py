"""Clearing the outbox: a job whose message is with the broker leaves it in the background, and together with others."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

from api.background import Background
from contracts.errors import StoreUnavailable
from contracts.job_store import JobStore
from telemetry import metrics

LINGER_S: Final = 0.25
"""How long one that leaves waits for others to leave with it: nobody waits for it, and the sweeper looks at what is older than seconds."""
MAX_GROUP: Final = 256
MAX_WAITING: Final = 10_000
"""More are left to the sweeper, which publishes them once more and clears them then."""


class OutboxCleaner:
    """Takes jobs out of the outbox. No client waits for that: a job that stays there, because the process dies or the store is away, is
    published a second time, and the worker's claim takes it once."""

    def __init__(self, jobs: JobStore, background: Background) -> None:
        self._jobs = jobs
        self._background = background
        self._waiting: deque[str] = deque()
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, job_id: str) -> None:
        """The job's message is with the broker."""
        if len(self._waiting) >= MAX_WAITING:
            metrics.REPAIRED.labels("confirm").inc()
            return
        self._waiting.append(job_id)
        if self._task is None or self._task.done():
            self._task = self._background.start(self._work())

    def end(self) -> None:
        """Wait for nobody any more."""
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
