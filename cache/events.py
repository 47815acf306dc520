"""Job events over Redis publish/subscribe: one connection per process, however many jobs are watched.

Every process hears the events of all shards and hands each to those who watch that job. A watcher then needs no
round trip of its own to subscribe, and thousands of them share one connection.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from cache.jobs import shard_prefix
from cache.listen import listen, subscribe
from contracts.ids import SHARDS
from contracts.jobs import Change, JobStatus, Progress

_STATUSES: Final = frozenset(JobStatus)


class Watchers:
    """Who watches which job in this process: a queue each, ended by None."""

    def __init__(self) -> None:
        self._queues: dict[str, set[asyncio.Queue[Change | None]]] = defaultdict(set)

    @asynccontextmanager
    async def add(self, job_id: str) -> AsyncIterator[AsyncIterator[Change]]:
        """Changes of the job from now on; the iterator ends with `end`."""
        queue: asyncio.Queue[Change | None] = asyncio.Queue()
        self._queues[job_id].add(queue)
        try:
            yield _until_none(queue)
        finally:
            self._queues[job_id].discard(queue)
            if not self._queues[job_id]:
                del self._queues[job_id]

    def tell(self, job_id: str, change: Change) -> None:
        for queue in self._queues.get(job_id, ()):
            queue.put_nowait(change)

    def end(self) -> None:
        """End every watch: what happens next will not be heard."""
        for queues in self._queues.values():
            for queue in queues:
                queue.put_nowait(None)


class RedisJobEvents:
    """The `JobEvents` of a Redis server. Listens from the first watch on; `close` at the end."""

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._watchers = Watchers()
        self._starting = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watch(self, job_id: str) -> AsyncIterator[AsyncIterator[Change]]:
        async with self._starting:
            if self._listener is None or self._listener.done():
                self._listener = asyncio.create_task(self._listen(await self._subscribe()), name="job events")
        async with self._watchers.add(job_id) as changes:
            yield changes

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener

    async def _subscribe(self) -> PubSub:
        channels = [f"{shard_prefix(shard)}events" for shard in SHARDS]
        return await subscribe(self._client, channels, "job events", self._timeout_s)

    async def _listen(self, pubsub: PubSub) -> None:
        """Hand out events until the connection is lost; the next watch opens another."""
        try:
            await listen(pubsub, self._hear)
        finally:
            self._watchers.end()

    def _hear(self, event: str) -> None:
        job_id, _, words = event.partition(" ")
        change = parse_change(words)
        if change is not None:
            self._watchers.tell(job_id, change)


def parse_change(words: str) -> Change | None:
    """What an event says after the job's id: a status, or `progress <step> <steps>`. None: said by another version."""
    match words.split(" "):
        case ["progress", step, steps] if step.isdecimal() and steps.isdecimal() and int(steps):
            return Progress(step=int(step), steps=int(steps))
        case [status] if status in _STATUSES:
            return JobStatus(status)
    return None


async def _until_none(queue: asyncio.Queue[Change | None]) -> AsyncIterator[Change]:
    while (change := await queue.get()) is not None:
        yield change
