"""Long polling: `Prefer: wait=N` (RFC 7240), the bounded wait for the end of a job, and work that
ends when its clients leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from api.end_listener import EndListener
from api.read_limits import Shares
from api.watch import SharedReads
from contracts.jobs import Job
from contracts.ports.job_events import JobEvents
from contracts.ports.job_store import JobStore
from telemetry import metrics

T = TypeVar("T")

RECHECK_S: Final = 5.0
"""Seconds between two reads of a job. An event can be lost with the connection that carries it."""


def preferred_wait_s(headers: Sequence[str], limit_s: float) -> int:
    """The seconds of the first `wait` in the `Prefer` headers, whole and at most `limit_s`; 0
    without a valid one.

    A preference that is not understood is ignored, as RFC 7240 section 2 requires.
    """
    for header in headers:
        for preference in header.split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() == "wait":
                digits = value.strip().strip('"')
                if not (digits.isascii() and digits.isdigit()):
                    return 0
                return int(limit_s) if len(digits) > 9 else min(int(digits), int(limit_s))
    return 0


class Waiters:
    """Holds requests until their job ends.

    `shares` bounds how many; a request beyond the bound gets the job as it is.
    """

    def __init__(self, jobs: JobStore, events: JobEvents, shares: Shares) -> None:
        self._reads = SharedReads(jobs)
        self._events = events
        self._shares = shares
        self._held: set[asyncio.Future[None]] = set()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called: the process ends."""
        return self._closed

    def close(self) -> None:
        """Answer all held requests with the job as it is, and hold no more."""
        self._closed = True
        for woken in self._held:
            _wake(woken)

    def crowded(self, holder: str) -> bool:
        """Whether `holder` itself has too many requests held, and not all holders together."""
        return not self._shares.full and not self._shares.has_room(holder)

    def listener(self) -> EndListener:
        """A listener, to be opened before the job is recorded or read.

        Then the job need not be read again before its end.
        """
        return EndListener(self._events)

    async def until_terminal(
        self,
        request: Request,
        tenant: str,
        job_id: str,
        wait_s: float,
        holder: str,
        listener: EndListener | None = None,
    ) -> Job | None:
        """The job once it has ended, or as it is after `wait_s` seconds or on `close`.

        None: no more requests can be held, in all or of `holder` (`Principal.holder`). A `listener`
        may know the job already. Raises what `JobStore.get` does, and `ClientDisconnect` when the
        client leaves.
        """
        if self._shares.full or self._closed or not self._shares.allows(holder):
            return None
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A server may report only once that the client has left. One task therefore asks for the whole wait.
        gone = asyncio.create_task(disconnected(request.receive))
        gone.add_done_callback(lambda _: _wake(woken))
        self._held.add(woken)
        with self._shares.one(holder), metrics.WAITERS.track_inprogress():
            try:
                if listener is None or listener.known is None:
                    async with self.listener() as listener:
                        await listener.listen(job_id)
                        job = await self._hold(woken, tenant, job_id, wait_s, listener)
                else:
                    job = await self._hold(woken, tenant, job_id, wait_s, listener)
                if gone.done() and not job.status.terminal:
                    raise ClientDisconnect
                return job
            finally:
                self._held.discard(woken)
                gone.cancel()
                await asyncio.gather(gone, return_exceptions=True)

    async def until_reviewed(self, request: Request, job: Job, wait_s: float, holder: str) -> Job:
        """The ended job once no image waits for a person, or as it is after `wait_s` seconds, on `close`, or if no
        more requests can be held. Raises what `JobStore.get` does, and `ClientDisconnect`."""
        if not job.in_review or self._shares.full or self._closed or not self._shares.allows(holder):
            return job
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        changed = asyncio.Event()
        gone = asyncio.create_task(disconnected(request.receive))
        gone.add_done_callback(lambda _: _wake(woken))
        self._held.add(woken)
        with self._shares.one(holder), metrics.WAITERS.track_inprogress():
            try:
                async with asyncio.timeout(wait_s):
                    while job.in_review and not woken.done():
                        async with self._events.subscribe(job.id, lambda _: changed.set()):
                            changed.clear()
                            job = await self._reads.get(job.tenant, job.id)
                            if job.in_review:
                                await _either(woken, changed, RECHECK_S)
            except TimeoutError:
                return job
            finally:
                left = gone.done()
                self._held.discard(woken)
                gone.cancel()
                await asyncio.gather(gone, return_exceptions=True)
        if left and job.in_review:
            raise ClientDisconnect
        return job

    async def _hold(
        self, woken: asyncio.Future[None], tenant: str, job_id: str, wait_s: float, listener: EndListener
    ) -> Job:
        """The job once it has ended, or as it is when `woken`, after `wait_s` seconds, or when no
        more events can arrive."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        job = listener.known
        while True:
            # Set before the record is read: a change during the read is seen in the next round.
            last = woken.done() or listener.finished.done() or loop.time() >= until
            if job is None or last:
                job = listener.ended() or await self._reads.get(tenant, job_id)
                listener.note(job)
            if job.status.terminal or last:
                return job
            job = None
            await asyncio.wait(
                {woken, listener.finished},
                timeout=min(RECHECK_S, max(0.0, until - loop.time())),
                return_when=asyncio.FIRST_COMPLETED,
            )


async def _either(woken: asyncio.Future[None], changed: asyncio.Event, wait_s: float) -> None:
    """Return when one of the two is done, or after `wait_s` seconds."""
    change = asyncio.create_task(changed.wait())
    either: set[asyncio.Future[Any]] = {woken, change}
    try:
        await asyncio.wait(either, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        change.cancel()
        await asyncio.gather(change, return_exceptions=True)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


@asynccontextmanager
async def watched(request: Request) -> AsyncIterator[asyncio.Future[None]]:
    """A future that is done once the client has left. It is valid inside the block."""
    gone = asyncio.create_task(disconnected(request.receive))
    try:
        yield gone
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)


class Audience:
    """The clients that wait for one piece of work. `gone` is done once every one of them has left."""

    def __init__(self) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._present = 0

    def join(self, gone: asyncio.Future[None] | None) -> None:
        """Add a client, which waits until `gone` is done (None: it never leaves)."""
        self._present += 1
        if gone is not None:
            gone.add_done_callback(self._left)

    def _left(self, _: object) -> None:
        self._present -= 1
        if not self._present:
            _wake(self.gone)


async def unless_gone(gone: asyncio.Future[None] | None, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`.

    When `gone` is done first, `work` is cancelled and `ClientDisconnect` raised. `gone` None: the
    client stays.
    """
    task = asyncio.ensure_future(work)
    either: set[asyncio.Future[Any]] = {task} if gone is None else {task, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Return once the client has left."""
    while (await receive())["type"] != "http.disconnect":
        continue
