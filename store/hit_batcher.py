"""Records cache hits in groups, one call per shard. Hits that arrive while one group is on its way
to Redis form the next.

A hit costs little more than its round trip to Redis. Under load a group carries many hits. A single
hit waits for no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from contracts.errors import RecordUnreadable
from contracts.ids import shard_of
from contracts.jobs import Job, JobResult, NewJob
from runtime.grouping import Grouped
from store.key_names import Layout
from store.records import job_of, paired, shared_parts
from store.scripts import Scripts, as_json
from store.submitting import new_record

MAX_GROUP: Final = 128
"""Jobs in one call. The server does nothing else meanwhile."""

Hit = tuple[NewJob, JobResult]


class HitBatcher:
    """Records jobs that succeed at once, because their results are cached."""

    def __init__(self, scripts: Scripts, layout: Layout) -> None:
        self._scripts = scripts
        self._layout = layout
        self._groups = {shard: Grouped(partial(self._run, shard), limit=MAX_GROUP) for shard in layout.names}

    async def add(self, new: NewJob, result: JobResult) -> Job:
        """The recorded job. Raises `StoreUnavailable`, and `RecordUnreadable` where the job was
        recorded before and cannot be read."""
        return await self._groups[self._layout.name(shard_of(new.id))].add((new, result))

    async def _run(self, shard: str, group: Sequence[Hit]) -> list[Job | Exception]:
        answers = await self._scripts.run("hit", self._layout.prefix(shard), *_arguments(group))
        return [self._parse_answer(hit, answer) for hit, answer in zip(group, answers, strict=True)]

    def _parse_answer(self, hit: Hit, answer: Sequence[str]) -> Job | Exception:
        match answer:
            case ["failed", words]:
                return self._scripts.fault(words)
            case [created_at, deadline]:
                return new_record(*hit, created_at, deadline)
        try:
            return job_of(paired(answer))
        except RecordUnreadable as error:
            return error


def _arguments(group: Sequence[Hit]) -> list[str]:
    """The arguments of the script. What jobs have in common is sent once, since the most popular
    images come many to a group. Pure."""
    # Frequent requests and results are the same objects each time, so they are compared by
    # identity.
    places: dict[tuple[object, ...], int] = {}
    kinds: list[dict[str, Any]] = []
    jobs: list[tuple[str, int, str]] = []
    for new, result in group:
        request = new.request
        common_parts = new.tenant, new.key, id(request), id(result), new.ttl_s, new.priority, new.webhook
        place = places.get(common_parts)
        if place is None:
            place = places[common_parts] = len(places)
            kinds.append({**shared_parts(new), "ttl_s": new.ttl_s, "result": result.model_dump_json()})
        jobs.append((new.id, place, new.origin.model_dump_json(exclude_none=True)))
    return [as_json(kinds), as_json(jobs)]
