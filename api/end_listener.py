"""Listens for the end of one job.

It starts before the job is recorded or read, so the job need not be read again.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from contracts.jobs import Change, Job, JobEnd
from contracts.ports.job_events import JobEvents


class EndListener:
    """Listens for one job, from `listen` until its `async with` block ends."""

    def __init__(self, events: JobEvents) -> None:
        self._events = events
        self._subscriptions: list[AbstractAsyncContextManager[None]] = []
        self._job_id: str | None = None
        self._closed = self._lost = False
        self._end: JobEnd | None = None
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the job has ended, or once no more events of it can arrive."""
        self._known: Job | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for subscription in self._subscriptions:
            await subscription.__aexit__(None, None, None)

    async def listen(self, job_id: str) -> None:
        """Receive the events of `job_id` from now on. Raises `StoreUnavailable`."""
        subscription = self._events.subscribe(job_id, self._on_change)
        await subscription.__aenter__()
        if self._closed:
            # The client has left meanwhile. Its job goes on.
            await subscription.__aexit__(None, None, None)
            return
        self._subscriptions.append(subscription)
        self._job_id = job_id

    def note(self, job: Job) -> None:
        """Remember `job`, which was just recorded or read. A job that this does not listen for is ignored."""
        if job.id == self._job_id:
            self._known = job

    @property
    def known(self) -> Job | None:
        """The job, as it was recorded or read while this listens.

        None: no such job, or no more events can arrive.
        """
        return None if self._lost else self._known

    def ended(self) -> Job | None:
        """The job at its end, if the event carried the whole end; else None."""
        return None if self._end is None or self._known is None else self._known.ended(self._end)

    def _on_change(self, change: Change | None) -> None:
        if change is None:
            self._lost = True
        elif not change.terminal:
            return
        elif isinstance(change, JobEnd):
            self._end = change
        if not self.finished.done():
            self.finished.set_result(None)
