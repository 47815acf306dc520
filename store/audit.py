"""The audit of the job store: how many jobs were recorded and how many ended, and which jobs make a
difference.

Each transition updates the counters in its own script, so they are exact and cost one command.
Adding them up is cheap at any size. Reading every record is expensive. It finds the job behind a
difference, or a job that an index has lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from backends.redis_client import pages, store_errors
from contracts.ids import SHARDS
from store.key_names import shard_prefix
from store.states import ENDED

SLACK_S: Final = 5.0
"""Seconds that a sweep may be late."""
SETTLE_S: Final = 1.5
"""Seconds before a job that looks wrong is read again. On a running platform, jobs change between
two reads."""
PAGE: Final = 500
ENDS: Final = tuple(state.value for state in ENDED)


@dataclass(frozen=True, slots=True)
class Audit:
    """The counts of jobs. `recorded` jobs in all; of these `ended` in each way, and `live` have not
    ended. `differences` are in words."""

    recorded: int
    ended: Mapping[str, int]
    live: int
    differences: Sequence[str] = ()

    @property
    def balanced(self) -> bool:
        """Whether every recorded job has ended or is live."""
        return self.recorded == sum(self.ended.values()) + self.live


@dataclass(frozen=True, slots=True)
class Places:
    """The job ids in the indices of a shard."""

    deadlines: frozenset[str]
    leases: frozenset[str]
    waiting: frozenset[str]


async def counts(client: Redis, timeout_s: float) -> Audit:
    """The counters alone. Raises `StoreUnavailable`."""
    recorded, live, ended = 0, 0, dict.fromkeys(ENDS, 0)
    for shard in SHARDS:
        async with store_errors("job store", timeout_s), client.pipeline(transaction=True) as pipeline:
            pipeline.hgetall(f"{shard_prefix(shard)}counts")
            pipeline.zcard(f"{shard_prefix(shard)}deadlines")
            counters, live_here = await pipeline.execute()
        recorded += int(counters.get("recorded", 0))
        live += live_here
        for name in ENDS:
            ended[name] += int(counters.get(name, 0))
    return Audit(recorded, ended, live)


async def audit(client: Redis, timeout_s: float) -> Audit:
    """The counters, and every job record compared with the indices. Raises `StoreUnavailable`."""
    suspects = await _suspects(client, timeout_s, None)
    if suspects:
        await asyncio.sleep(SETTLE_S)
        suspects = await _suspects(client, timeout_s, set(suspects))
    total = await counts(client, timeout_s)
    words = [f"{job_id}: {what}" for job_id, what in sorted(suspects.items())]
    if not total.balanced:
        missing = total.recorded - sum(total.ended.values()) - total.live
        words.insert(0, f"{total.recorded} were recorded, {missing} more than have ended or are live")
    return Audit(total.recorded, total.ended, total.live, words)


def fault_of(job_id: str, record: Mapping[str, str], places: Places, now: float) -> str | None:
    """What is wrong with a job, in words; None: nothing. `now` is Unix seconds. Pure."""
    status = record.get("status", "")
    if not status:
        return "is indexed and has no record" if job_id in places.deadlines else None
    if status in ENDS:
        return f"has ended {status} and is still indexed" if job_id in places.deadlines else None
    if job_id not in places.deadlines:
        return f"is {status} and will never expire"
    late = now - float(record["deadline"])
    if late > SLACK_S:
        return f"is {status} {late:.0f} s past its deadline: nobody sweeps"
    if status == "running" and job_id not in places.leases:
        return "is running without a lease"
    if status == "queued" and record["cache"] == "miss" and job_id not in places.waiting:
        return "is queued and waits for no model"
    return None


async def _suspects(client: Redis, timeout_s: float, only: set[str] | None) -> dict[str, str]:
    """The jobs with a fault, and the fault of each; among all jobs, or among `only`."""
    faults: dict[str, str] = {}
    for shard in SHARDS:
        prefix = shard_prefix(shard)
        places = await _places(client, prefix, timeout_s)
        async with store_errors("job store", timeout_s):
            seconds, micros = await client.eval(_TIME, 1, prefix)
        now = float(seconds) + float(micros) / 1e6
        job_ids = set(places.deadlines) | await _job_ids(client, prefix, timeout_s)
        if only is not None:
            job_ids &= only
        ordered = sorted(job_ids)
        for begin in range(0, len(ordered), PAGE):
            page = ordered[begin : begin + PAGE]
            async with store_errors("job store", timeout_s), client.pipeline(transaction=False) as pipeline:
                for job_id in page:
                    pipeline.hgetall(f"{prefix}job:{job_id}")
                records = await pipeline.execute()
            for job_id, record in zip(page, records, strict=True):
                fault = fault_of(job_id, record, places, now)
                if fault is not None:
                    faults[job_id] = fault
    return faults


_TIME: Final = "return redis.call('TIME')"


async def _places(client: Redis, prefix: str, timeout_s: float) -> Places:
    waiting: set[str] = set()
    async for keys in pages(client, "job store", timeout_s, f"{prefix}waiting:*", PAGE):
        for key in keys:
            members: Any = await client.zrange(key, 0, -1)
            waiting |= set(members)
    async with store_errors("job store", timeout_s):
        deadlines: Any = await client.zrange(f"{prefix}deadlines", 0, -1)
        leases: Any = await client.zrange(f"{prefix}leases", 0, -1)
    return Places(frozenset(deadlines), frozenset(leases), frozenset(waiting))


async def _job_ids(client: Redis, prefix: str, timeout_s: float) -> set[str]:
    job_ids: set[str] = set()
    async for keys in pages(client, "job store", timeout_s, f"{prefix}job:*", PAGE):
        job_ids |= {key.rpartition(":")[2] for key in keys}
    return job_ids
