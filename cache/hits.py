"""Recording cache hits by groups: those that come while one group is on its way to Redis make the next, in one call per shard.

A hit costs nothing but its record, so the round trip is what it costs. Under load a group carries many of them; a single one
waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from cache.key_names import Layout
from cache.records import shared_parts
from cache.scripts import as_json
from cache.submitting import born
from contracts.ids import shard_of
from contracts.jobs import Job, JobResult, NewJob

MAX_GROUP: Final = 128
"""Jobs in one call: the server does nothing else meanwhile."""

Record = Callable[[str, Sequence[str]], Awaitable[list[list[str]]]]
"""Runs the script on a shard with these arguments."""
Waiting = tuple[NewJob, JobResult, asyncio.Future[Job]]


class HitRecorder:
    """Records jobs that are born succeeded. `read` makes a job of a whole record, for one that was there already."""

    def __init__(self, record: Record, read: Callable[[Sequence[str]], Job], layout: Layout) -> None:
        self._record = record
        self._read = read
        self._layout = layout
        self._waiting: dict[str, list[Waiting]] = defaultdict(list)
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(self, new: NewJob, result: JobResult) -> Job:
        """The recorded job. Raises `StoreUnavailable`."""
        shard = self._layout.name(shard_of(new.id))
        recorded: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self._waiting[shard].append((new, result, recorded))
        if shard not in self._busy:
            self._busy.add(shard)
            task = asyncio.create_task(self._work(shard))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await recorded

    async def _work(self, shard: str) -> None:
        try:
            while self._waiting[shard]:
                group = self._waiting[shard][:MAX_GROUP]
                del self._waiting[shard][:MAX_GROUP]
                await self._run(shard, group)
        finally:
            self._busy.discard(shard)

    async def _run(self, shard: str, group: list[Waiting]) -> None:
        try:
            answers = await self._record(shard, _arguments(group))
            jobs = [
                born(new, result, *answer) if len(answer) == 2 else self._read(answer)
                for (new, result, _), answer in zip(group, answers, strict=True)
            ]
        except Exception as error:  # noqa: BLE001  whatever it is, each of them must hear of it
            for _, _, recorded in group:
                if not recorded.done():
                    recorded.set_exception(error)
            return
        for (_, _, recorded), job in zip(group, jobs, strict=True):
            if not recorded.done():
                recorded.set_result(job)


def _arguments(group: Sequence[Waiting]) -> list[str]:
    """Those of the script. What jobs have in common is said once: the hottest pictures come many to a group. Pure."""
    # Hot requests and results are the same objects each time: they are known by identity.
    places: dict[tuple[object, ...], int] = {}
    kinds: list[dict[str, Any]] = []
    jobs: list[tuple[str, int, str]] = []
    for new, result, _ in group:
        request = new.request
        alike = new.tenant, new.key, id(request), id(result), new.ttl_s, new.priority, new.webhook
        place = places.get(alike)
        if place is None:
            place = places[alike] = len(places)
            kinds.append({**shared_parts(new), "ttl_s": new.ttl_s, "result": result.model_dump_json()})
        jobs.append((new.id, place, new.origin.model_dump_json(exclude_none=True)))
    return [as_json(kinds), as_json(jobs)]
