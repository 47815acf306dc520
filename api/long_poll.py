"""Long polling: `Prefer: wait=N` (RFC 7240), the bounded wait for a job to end, and work that ends with its clients."""

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
from contracts.job_store import JobStore
from contracts.jobs import Job
from contracts.ports import JobEvents
from telemetry import metrics

T = TypeVar("T")

RECHECK_S: Final = 5.0
"""An event can be lost with the connection that would have brought it: look again this often, in seconds."""


def preferred_wait_s(headers: Sequence[str], limit_s: float) -> int:
    """The whole seconds of the first `wait` in the `Prefer` headers, at most `limit_s`; 0 without a valid one.

    A preference that is not understood is ignored, as RFC 7240 section 2 asks.
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
    """Everyone who is held for a job. Bounded by `shares`: beyond, nobody is held, and gets the job as it stands."""

    def __init__(self, jobs: JobStore, events: JobEvents, shares: Shares) -> None:
        self._reads = SharedReads(jobs)
        self._events = events
        self._shares = shares
        self._held: set[asyncio.Future[None]] = set()
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Let everyone go with the job as it stands; hold nobody any more."""
        self._closed = True
        for woken in self._held:
            _wake(woken)

    def crowded(self, holder: str) -> bool:
        """Whether it is `holder` that has too many held."""
        return not self._shares.full and not self._shares.has_room(holder)

    def listener(self) -> EndListener:
        """To be opened before the job is recorded or read: then nothing needs to be read before its end."""
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
        """The job once it has ended, or as it stands after `wait_s` seconds or on `close`; None: nobody more can be held, or
        nobody more of `holder` (`Principal.holder`). A `listener` may know the job already.

        Raises what `JobStore.get` does, and `ClientDisconnect` when the client leaves.
        """
        if self._shares.full or self._closed or not self._shares.allows(holder):
            return None
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A server may tell only once that the client has left: it is asked by one who asks for as long as we hold.
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

    async def _hold(
        self, woken: asyncio.Future[None], tenant: str, job_id: str, wait_s: float, listener: EndListener
    ) -> Job:
        """The job once it has ended, or as it stands when `woken`, after `wait_s` seconds, or when no more is heard of it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        job = listener.known
        while True:
            # Noted before the record is read: what happens while it is read is looked at once more.
            last = woken.done() or listener.told.done() or loop.time() >= until
            if job is None or last:
                job = listener.ended() or await self._reads.get(tenant, job_id)
                listener.note(job)
            if job.status.terminal or last:
                return job
            job = None
            await asyncio.wait(
                {woken, listener.told},
                timeout=min(RECHECK_S, max(0.0, until - loop.time())),
                return_when=asyncio.FIRST_COMPLETED,
            )


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


@asynccontextmanager
async def watched(request: Request) -> AsyncIterator[asyncio.Future[None]]:
    """A future that is done once the client has left, for as long as it is watched."""
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
        """One more waits, until `gone`; None: for good."""
        self._present += 1
        if gone is not None:
            gone.add_done_callback(self._left)

    def _left(self, _: object) -> None:
        self._present -= 1
        if not self._present:
            _wake(self.gone)


async def unless_gone(gone: asyncio.Future[None] | None, work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to. It is cancelled when its client leaves, and `ClientDisconnect` raised."""
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
    """Returns once the client has left."""
    while (await receive())["type"] != "http.disconnect":
        continue
