"""Hearing how one job ends: from before it is recorded or read, so that nothing of it needs to be read again."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from contracts.jobs import Change, Job, JobEnd
from contracts.ports import JobEvents


class EndListener:
    """Listens for one job, from `listen` on, for as long as its block runs."""

    def __init__(self, events: JobEvents) -> None:
        self._events = events
        self._hearing: list[AbstractAsyncContextManager[None]] = []
        self._job_id: str | None = None
        self._closed = self._deaf = False
        self._end: JobEnd | None = None
        self.told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the job has ended, or nothing more will be heard of it."""
        self._known: Job | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for hearing in self._hearing:
            await hearing.__aexit__(None, None, None)

    async def listen(self, job_id: str) -> None:
        """Hear of `job_id` from now on. Raises `StoreUnavailable`."""
        hearing = self._events.hear(job_id, self._tell)
        await hearing.__aenter__()
        if self._closed:
            # The client has left meanwhile; its job goes on.
            await hearing.__aexit__(None, None, None)
            return
        self._hearing.append(hearing)
        self._job_id = job_id

    def note(self, job: Job) -> None:
        """`job` has just been recorded or read. Of another than the one that is listened for nothing is known."""
        if job.id == self._job_id:
            self._known = job

    @property
    def known(self) -> Job | None:
        """The job, as it was recorded or read while this listens; None also where nothing more will be heard of it."""
        return None if self._deaf else self._known

    def ended(self) -> Job | None:
        """The job at its end, if that was heard whole."""
        return None if self._end is None or self._known is None else self._known.ended(self._end)

    def _tell(self, change: Change | None) -> None:
        if change is None:
            self._deaf = True
        elif not change.terminal:
            return
        elif isinstance(change, JobEnd):
            self._end = change
        if not self.told.done():
            self.told.set_result(None)
