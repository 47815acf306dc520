"""Job events over Redis publish/subscribe: one connection per process, however many jobs are watched.

Every process hears the events of all shards and hands each to those who watch that job. A watcher then needs no
round trip of its own to subscribe, and thousands of them share one connection.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from backends.pubsub import listen, messages, subscribe
from contracts.jobs import Change, JobEnd, JobStatus, Preview, Progress
from contracts.ports import Tell
from contracts.requests import MAX_PREVIEWS
from contracts.tasks import end
from store.key_names import PREFIX, Layout

_STATUSES: Final = frozenset(JobStatus)


class Watchers:
    """Who hears of which job in this process."""

    def __init__(self) -> None:
        self._hearers: defaultdict[str, set[Tell]] = defaultdict(set)

    def add(self, job_id: str, tell: Tell) -> None:
        """`tell` hears the changes of the job from now on, and of `end`, until it is removed."""
        self._hearers[job_id].add(tell)

    def remove(self, job_id: str, tell: Tell) -> None:
        """`tell` hears of the job no more."""
        self._hearers[job_id].discard(tell)
        if not self._hearers[job_id]:
            del self._hearers[job_id]

    def any(self, job_id: str) -> bool:
        """Whether anybody hears of the job."""
        return job_id in self._hearers

    def tell(self, job_id: str, change: Change) -> None:
        for tell in tuple(self._hearers.get(job_id, ())):
            tell(change)

    def end(self) -> None:
        """What happens next will not be heard."""
        for tell in [tell for hearers in self._hearers.values() for tell in hearers]:
            tell(None)


class RedisJobEvents:
    """The `JobEvents` of a Redis server. Listens from the first `hear` on; `close` at the end."""

    def __init__(self, client: Redis, layout: Layout, timeout_s: float) -> None:
        self._client = client
        self._layout = layout
        self._timeout_s = timeout_s
        self._watchers = Watchers()
        self._starting = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def hear(self, job_id: str, tell: Tell) -> AsyncIterator[None]:
        if self._listener is None or self._listener.done():
            await self._begin()
        self._watchers.add(job_id, tell)
        try:
            yield
        finally:
            self._watchers.remove(job_id, tell)

    def canceled(self, worker_id: str) -> AsyncGenerator[str]:
        return messages(self._client, [f"{PREFIX}canceled:{worker_id}"], "cancellations", self._timeout_s)

    async def close(self) -> None:
        if self._listener is not None:
            await end(self._listener)

    async def _begin(self) -> None:
        async with self._starting:
            if self._listener is None or self._listener.done():
                self._listener = asyncio.create_task(self._listen(await self._subscribe()), name="job events")

    async def _subscribe(self) -> PubSub:
        channels = [f"{prefix}events" for prefix in self._layout.prefixes]
        return await subscribe(self._client, channels, "job events", self._timeout_s)

    async def _listen(self, pubsub: PubSub) -> None:
        """Hand out events until the connection is lost; the next `hear` opens another."""
        try:
            await listen(pubsub, self._hear)
        finally:
            self._watchers.end()

    def _hear(self, event: str) -> None:
        job_id, _, words = event.partition(" ")
        if not self._watchers.any(job_id):
            return  # every process hears of every job, and few of them are its own
        change = parse_change(words)
        if change is not None:
            self._watchers.tell(job_id, change)


def parse_change(words: str) -> Change | None:
    """What an event says after the job's id: a status, behind one that is the last a document of what has changed; `progress <step>
    <steps>` or `preview <index> <name>`. None: said by another version."""
    status, _, document = words.partition(" ")
    if document and status in _STATUSES:
        try:
            return JobEnd.model_validate_json(f'{{"status":"{status}",{document[1:]}')
        except ValueError:
            return JobStatus(status)  # the record tells the rest
    match words.split(" "):
        case ["progress", step, steps] if step.isdecimal() and steps.isdecimal() and int(steps):
            return Progress(step=int(step), steps=int(steps))
        case ["preview", index, name] if index.isdecimal() and int(index) < MAX_PREVIEWS:
            return Preview(index=int(index), name=name)
        case [status] if status in _STATUSES:
            return JobStatus(status)
    return None
