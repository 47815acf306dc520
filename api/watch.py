"""Shared reads of jobs: each change of a job is read once for all clients of this process that follow it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from api.catalogue import Catalogue
from api.views import job_views
from contracts.jobs import Change, Job, JobEnd, JobStatus, Moderated, Preview
from contracts.ports.job_store import JobStore
from runtime.tasks import end
from store.stores import Stores
from views.job import JobView

LOOK_AGAIN_S: Final = 5.0
"""Seconds between two reads of a record. A change can be lost with the connection that carries it."""
AT_ONCE: Final = 16
"""How many followers are notified of a change at once."""
PAUSE_S: Final = 0.005
"""Seconds between two such groups. Other requests run in the pause."""

Key = tuple[str, str]
"""The tenant and the id of a job."""
WatchKey = tuple[str, str, bool]
"""The same, and whether a client waits until people have decided on the job's images."""


class Reading(NamedTuple):
    """A job as it was read, and the previews that have arrived since the last reading."""

    job: Job
    view: JobView
    previews: Sequence[Preview]


class SharedReads:
    """Reads of jobs. A read always begins after the call for it. All calls before it begins share it."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self._reading: dict[Key, asyncio.Task[Job]] = {}
        self._next: dict[Key, asyncio.Task[Job]] = {}

    async def get(self, tenant: str, job_id: str) -> Job:
        """The job as it is now or later. Raises what `JobStore.get` does."""
        key = tenant, job_id
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._read(self._reading.get(key), key))
            task.add_done_callback(lambda done: self._ended(key, done))
        # A caller that is cancelled must not end the read for the others.
        return await asyncio.shield(task)

    async def _read(self, earlier: asyncio.Task[Job] | None, key: Key) -> Job:
        if earlier is not None:
            await asyncio.wait({earlier})
        self._reading[key] = self._next.pop(key)
        return await self._jobs.get(*key)

    def _ended(self, key: Key, done: asyncio.Task[Job]) -> None:
        for tasks in (self._reading, self._next):
            if tasks.get(key) is done:
                del tasks[key]
        if not done.cancelled():
            done.exception()  # known to those who waited for it, if any still do


@dataclass(eq=False, slots=True)
class _Follower:
    """One client that follows a job.

    `wants` is the number of the first reading that began after it joined.
    """

    wants: int
    previews: list[Preview] = field(default_factory=list)
    latest: tuple[Job, JobView] | None = None
    failure: Exception | None = None
    fresh: asyncio.Event = field(default_factory=asyncio.Event)


class _Watch:
    """The readings of one job, for all its followers."""

    def __init__(self) -> None:
        self.followers: set[_Follower] = set()
        self.changed = asyncio.Event()
        self.begun = 0
        self.subscribed = True
        self.end: JobEnd | None = None
        self.task: asyncio.Task[None] | None = None

    def join(self) -> _Follower:
        # A reading that began earlier may be older than what this client knows from another process.
        follower = _Follower(self.begun + 1)
        self.followers.add(follower)
        self.changed.set()
        return follower

    def on_change(self, change: Change | None) -> None:
        self.subscribed = self.subscribed and change is not None
        if isinstance(change, JobEnd):
            self.end = change
        if isinstance(change, Moderated):
            self.end = None  # the record says more
        if isinstance(change, Preview):
            for follower in self.followers:
                follower.previews.append(change)
        self.changed.set()

    def ended(self, job: Job | None) -> Job | None:
        """`job` at its end, if the event carried the end; None: it must be read.

        `job` was read while this listened.
        """
        return None if job is None or self.end is None else job.ended(self.end)

    async def publish(self, job: Job, view: JobView) -> bool:
        """Give the reading to all followers. Returns whether all have it."""
        served = [follower for follower in self.followers if follower.wants <= self.begun]
        for place, follower in enumerate(served):
            if place and place % AT_ONCE == 0:
                await asyncio.sleep(PAUSE_S)
            follower.latest = job, view
            follower.fresh.set()
        # Followers may have joined or left in the pauses.
        return self.followers <= set(served)

    def fail(self, error: Exception) -> None:
        for follower in self.followers:
            follower.failure = error
            follower.fresh.set()


class SharedReadings:
    """The jobs that clients of this process follow. One task reads each of them."""

    def __init__(self, stores: Stores, catalogue: Catalogue, heartbeat_s: float) -> None:
        self._stores = stores
        self._catalogue = catalogue
        self._heartbeat_s = heartbeat_s
        self._watches: dict[WatchKey, _Watch] = {}

    async def follow(
        self, tenant: str, job_id: str, *, until_reviewed: bool = False
    ) -> AsyncGenerator[Reading]:
        """The job now, after every change, and often enough in between for a heartbeat. The last
        reading is that of the ended job; with `until_reviewed`, that of the job none of whose images
        waits for a person.

        A slow client misses readings, but never the last one. Raises what `JobStore.get` does.
        """
        key = tenant, job_id, until_reviewed
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = _Watch()
        follower = watch.join()
        if watch.task is None:
            watch.task = asyncio.create_task(self._run(key, watch), name="job watch")
        shown = -1
        try:
            while True:
                await follower.fresh.wait()
                follower.fresh.clear()
                if follower.failure is not None:
                    raise follower.failure.with_traceback(None)
                if follower.latest is None:
                    continue
                job, view = follower.latest
                # A leader may have more previews than this job asked for. A second attempt sends all again.
                previews = []
                while follower.previews:
                    preview = follower.previews.pop(0)
                    if shown < preview.index < job.request.previews:
                        shown = preview.index
                        previews.append(preview)
                yield Reading(job, view, previews)
                if _over(key, job):
                    return
        finally:
            watch.followers.discard(follower)
            if not watch.followers:
                self._forget(key, watch)
                await end(watch.task)

    async def _run(self, key: WatchKey, watch: _Watch) -> None:
        try:
            await self._watch(key, watch)
        except Exception as error:  # noqa: BLE001 - each follower raises it
            watch.fail(error)
        finally:
            self._forget(key, watch)

    async def _watch(self, key: WatchKey, watch: _Watch) -> None:
        tenant, job_id, _ = key
        while True:
            watch.subscribed, watch.end = True, None
            async with self._stores.events.subscribe(job_id, watch.on_change):
                job: Job | None = None
                while watch.subscribed:
                    watch.changed.clear()
                    watch.begun += 1
                    job = watch.ended(job) or await self._stores.jobs.get(tenant, job_id)
                    (view,) = await job_views([job], self._stores.jobs, self._catalogue)
                    if await watch.publish(job, view) and _over(key, job):
                        return
                    with suppress(TimeoutError):
                        async with asyncio.timeout(min(self._heartbeat_s, _look_again_s(view))):
                            await watch.changed.wait()

    def _forget(self, key: WatchKey, watch: _Watch) -> None:
        if self._watches.get(key) is watch:
            del self._watches[key]


def _over(key: WatchKey, job: Job) -> bool:
    """Whether no more changes are wanted of the job."""
    return job.status.terminal and not (key[2] and job.in_review)


def _look_again_s(view: JobView) -> float:
    """After how many seconds to read a job without an event.

    Places in the queue change without events; far ones change slowly.
    """
    if view.status is not JobStatus.QUEUED or view.queue_position is None:
        return LOOK_AGAIN_S
    return min(LOOK_AGAIN_S, max(1.0, math.sqrt(view.eta_seconds or 1.0)))
