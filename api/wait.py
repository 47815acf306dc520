"""Long polling: `Prefer: wait=N` (RFC 7240), and the bounded wait for a job to end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from contracts.jobs import Job
from contracts.ports import JobEvents, JobStore
from telemetry import metrics

MAX_WAITERS: Final = 1024
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
    """Everyone who is held for a job. Bounded: beyond `limit` nobody is held, and gets the job as it stands."""

    def __init__(self, jobs: JobStore, events: JobEvents, limit: int = MAX_WAITERS) -> None:
        self._jobs = jobs
        self._events = events
        self._limit = limit
        self._held = 0
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Let everyone go with the job as it stands; hold nobody any more."""
        self._closing.set()

    async def until_terminal(self, request: Request, tenant: str, job_id: str, wait_s: float) -> Job | None:
        """The job once it has ended, or as it stands after `wait_s` seconds or on `close`; None: nobody more can be held.

        Raises what `JobStore.get` does, and `ClientDisconnect` when the client leaves.
        """
        if self._held >= self._limit or self._closing.is_set():
            return None
        self._held += 1
        metrics.WAITERS.inc()
        watch = asyncio.create_task(self._watch(tenant, job_id, wait_s))
        gone = asyncio.create_task(disconnected(request.receive))
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({watch, gone, closing}, return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                return watch.result()
            if gone.done():
                raise ClientDisconnect
        finally:
            self._held -= 1
            metrics.WAITERS.dec()
            for task in (watch, gone, closing):
                task.cancel()
            await asyncio.gather(watch, gone, closing, return_exceptions=True)
        return await self._jobs.get(tenant, job_id)

    async def _watch(self, tenant: str, job_id: str, wait_s: float) -> Job:
        try:
            async with asyncio.timeout(wait_s):
                while (job := await self._watch_once(tenant, job_id)) is None:
                    continue
                return job
        except TimeoutError:
            return await self._jobs.get(tenant, job_id)

    async def _watch_once(self, tenant: str, job_id: str) -> Job | None:
        """The ended job; None: look again. A stream of events that ends too early lets the client go, as it stands."""
        try:
            async with asyncio.timeout(RECHECK_S), self._events.watch(job_id) as changes:
                # Read after the subscription is in force: an end between the two cannot be missed.
                job = await self._jobs.get(tenant, job_id)
                if job.status.terminal:
                    return job
                async for change in changes:
                    if change.terminal:
                        break
        except TimeoutError:
            return None
        return await self._jobs.get(tenant, job_id)


async def disconnected(receive: Receive) -> None:
    """Returns once the client has left."""
    while (await receive())["type"] != "http.disconnect":
        continue
