"""Job events over Redis publish/subscribe, with one connection per process for any number of
watched jobs.

Every process receives the events of all shards and passes each on to the watchers of that job. A
new watcher then needs no round trip to subscribe, and thousands of watchers share one connection.
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
from contracts.jobs import Change, JobEnd, JobStatus, Moderated, Preview, Progress
from contracts.ports.job_events import ChangeListener
from contracts.requests import MAX_PREVIEWS
from runtime.tasks import end
from store.key_names import PREFIX, Layout

_STATUSES: Final = frozenset(JobStatus)


class Watchers:
    """The listeners of this process, by the job that they watch."""

    def __init__(self) -> None:
        self._listeners: defaultdict[str, set[ChangeListener]] = defaultdict(set)

    def add(self, job_id: str, listener: ChangeListener) -> None:
        """`listener` receives the changes of the job from now on, and the end of events as None, until
        it is removed."""
        self._listeners[job_id].add(listener)

    def remove(self, job_id: str, listener: ChangeListener) -> None:
        """`listener` receives no more changes of the job."""
        self._listeners[job_id].discard(listener)
        if not self._listeners[job_id]:
            del self._listeners[job_id]

    def any(self, job_id: str) -> bool:
        """Whether anybody watches the job."""
        return job_id in self._listeners

    def notify(self, job_id: str, change: Change) -> None:
        """Pass the change on to everybody who watches the job."""
        for listener in tuple(self._listeners.get(job_id, ())):
            listener(change)

    def end(self) -> None:
        """Pass None on to everybody: later changes will not arrive."""
        for listener in [each for listeners in self._listeners.values() for each in listeners]:
            listener(None)


class RedisJobEvents:
    """The `JobEvents` of a Redis server. Listens from the first `subscribe` on. Call `close` at the
    end."""

    def __init__(self, client: Redis, layout: Layout, timeout_s: float) -> None:
        self._client = client
        self._layout = layout
        self._timeout_s = timeout_s
        self._watchers = Watchers()
        self._starting = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def subscribe(self, job_id: str, listener: ChangeListener) -> AsyncIterator[None]:
        """Within the context, `listener` receives every change of the job. Raises
        `StoreUnavailable`."""
        if self._listener is None or self._listener.done():
            await self._begin()
        self._watchers.add(job_id, listener)
        try:
            yield
        finally:
            self._watchers.remove(job_id, listener)

    def canceled(self, worker_id: str) -> AsyncGenerator[str]:
        """Ids of jobs that were canceled while this worker ran them, until the connection is
        lost."""
        return messages(self._client, [f"{PREFIX}canceled:{worker_id}"], "cancellations", self._timeout_s)

    async def close(self) -> None:
        """Stop listening."""
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
        """Pass events on until the connection is lost. The next `subscribe` opens another."""
        try:
            await listen(pubsub, self._on_event)
        finally:
            self._watchers.end()

    def _on_event(self, event: str) -> None:
        job_id, _, words = event.partition(" ")
        if not self._watchers.any(job_id):
            return  # most events are about jobs that nobody watches here
        change = parse_change(words)
        if change is not None:
            self._watchers.notify(job_id, change)


def parse_change(words: str) -> Change | None:
    """The change in an event, from the text behind the job's id. None: another version wrote it.
    Pure.

    The text is a status, followed by a JSON document of the changed fields if the job has ended; or
    `progress <step> <steps>`; or `preview <index> <name>`; or `moderated <sequence>`.
    """
    status, _, document = words.partition(" ")
    if document and status in _STATUSES:
        try:
            return JobEnd.model_validate_json(f'{{"status":"{status}",{document[1:]}')
        except ValueError:
            return JobStatus(status)  # the record has the rest
    match words.split(" "):
        case ["progress", step, steps] if step.isdecimal() and steps.isdecimal() and int(steps):
            return Progress(step=int(step), steps=int(steps))
        case ["preview", index, name] if index.isdecimal() and int(index) < MAX_PREVIEWS:
            return Preview(index=int(index), name=name)
        case ["moderated", sequence] if sequence.isdecimal():
            return Moderated(sequence=int(sequence))
        case [status] if status in _STATUSES:
            return JobStatus(status)
    return None
