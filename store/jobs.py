"""Job records in Redis: every transition is one Lua script, atomic on the job's shard. `lua/prelude.lua` lists the keys."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis

from cache.results import RedisResultCache
from contracts import ids
from contracts.clock import Clock
from contracts.errors import JobGone, JobNotFound, QueueFull, StoreUnavailable
from contracts.jobs import Job, JobFailure, JobMessage, JobResult, JobStatus, Lease, NewJob, Preview
from contracts.settings import BackendSettings
from contracts.transitions import (
    Busy,
    Claim,
    End,
    EndAnswer,
    Ended,
    Finished,
    Granted,
    Submission,
    SubmitAnswer,
    Submitted,
    Taken,
    TooManyAhead,
)
from contracts.urls import is_cluster
from store.ending import Ending
from store.hit_batcher import HitBatcher
from store.key_names import Layout
from store.layout import LayoutGuard
from store.listing import newest_jobs
from store.order import Order
from store.records import job_of, lease_of, messages_of, paired, static_parts
from store.scripts import Scripts, as_json
from store.statuses import read_statuses
from store.submitting import NEVER, Submitting
from store.sweep import Housekeeping
from store.taking import DAMAGED, Taking

MAX_TOLD: Final = 256
"""Followers of one flight that are told of its steps; of its end all are told."""


def absent(job_id: str, now_s: float, retention_s: float) -> JobNotFound | JobGone:
    """The error for an id without a record: its own time tells a forgotten job from one that never was."""
    if ids.created_at(job_id) + retention_s < now_s:
        return JobGone("This job ended long ago; its record is no longer kept.")
    return JobNotFound("There is no such job.")


class RedisJobStore:
    """The `JobStore` on one Redis server or cluster. `skew_s` shifts its clock; for tests only."""

    def __init__(
        self,
        client: Redis,
        settings: BackendSettings,
        clock: Clock,
        guard: LayoutGuard,
        results: RedisResultCache,
    ) -> None:
        timeout_s = settings.redis_timeout_s
        self._client = client
        self._settings = settings
        self._clock = clock
        self._guard = guard
        self._scripts = Scripts(client, guard, settings.job_retention_s, timeout_s, "job store")
        self.layout = layout = Layout(settings.shards)
        self._order = Order(client, layout, guard)
        # Within a script's reach: the fair clocks where no cluster keeps them elsewhere, the cache where it is on the same server.
        one = layout.number == 1 and not is_cluster(settings.redis_url)
        cached = one and settings.cache_redis_url in (None, settings.redis_url)
        self._submitting = Submitting(
            client, self._scripts, layout, self._order, results, timeout_s, clocks=one, cached=cached
        )
        self._ending = Ending(self._scripts, layout, results, together=cached)
        self._taking = Taking(client, settings, layout, self._scripts, guard, together=one)
        self._housekeeping = Housekeeping(self._scripts, layout, guard, clock, settings.lease_s)
        self._hits = HitBatcher(self._scripts, layout)

    @property
    def shards(self) -> Sequence[str]:
        return self.layout.names

    @property
    def skew_s(self) -> float:
        return self._scripts.skew_s

    @skew_s.setter
    def skew_s(self, seconds: float) -> None:
        self._scripts.skew_s = seconds

    async def submit(
        self, new: NewJob, result: JobResult | None = None, *, may_lead: bool = True
    ) -> Submitted:
        if result is not None:
            # What is there already takes no turn.
            return Submitted(await self._hits.add(new, result), lead=False)
        (answer,) = await self.submit_many([Submission(new, most_ahead=None if may_lead else NEVER)])
        if isinstance(answer, TooManyAhead):
            raise QueueFull("No more computations are taken.")
        if not isinstance(answer, Submitted):
            raise _raised(answer)
        return answer

    async def submit_many(self, asked: Sequence[Submission]) -> Sequence[SubmitAnswer]:
        return await self._submitting.submit(asked)

    async def confirm(self, job_id: str) -> None:
        await self.confirm_many([job_id])

    async def confirm_many(self, job_ids: Sequence[str]) -> None:
        by_prefix: dict[str, list[str]] = defaultdict(list)
        for job_id in job_ids:
            by_prefix[self.layout.job_prefix(job_id)].append(job_id)
        async with self._guard.store_errors():
            for prefix, mine in by_prefix.items():
                await self._client.zrem(f"{prefix}outbox", *mine)

    async def withdraw(self, job_id: str) -> Finished:
        applied, promoted = await self._run("withdraw", ids.shard_of(job_id), job_id)
        return _finished(applied, promoted)

    async def get(self, tenant: str, job_id: str) -> Job:
        record = paired(await self._run("read", ids.shard_of(job_id), job_id, tenant))
        if not record:
            raise absent(job_id, self._clock.now() + self.skew_s, self._settings.job_retention_s)
        return job_of(record)

    async def owner(self, job_id: str) -> str | None:
        async with self._guard.store_errors():
            tenant: Any = await self._client.hget(self.layout.job_key(job_id), "tenant")
        return None if tenant is None else str(tenant)

    async def statuses(self, job_ids: Sequence[str]) -> Sequence[JobStatus | None]:
        async with self._guard.store_errors():
            return await read_statuses(self._client, [self.layout.job_key(job_id) for job_id in job_ids])

    async def list(self, tenant: str, limit: int, before: str | None = None) -> Sequence[Job]:
        return await newest_jobs(self._client, self._guard, self.layout, tenant, limit, before)

    async def take(self, model: str, worker_id: str, limit: int) -> Taken:
        taken = await self._taking.take(model, worker_id, limit)
        for lease in taken.damaged:
            with suppress(StoreUnavailable):
                await self.release(lease, fault=DAMAGED)
        return Taken(taken.jobs, taken.promoted)

    async def claim(self, message: JobMessage, worker_id: str, *, leave_waiting: bool = False) -> Claim:
        by = {**self._taking.rules, "worker": worker_id, "leave_waiting": leave_waiting}
        times = {"created_at": message.created_at, "deadline": message.deadline}
        document = {**static_parts(message.job_id, message), **times}
        answer = await self._run("claim", ids.shard_of(message.job_id), as_json(by), as_json(document))
        match answer:
            case ["granted", attempt, started_at, claimed_at, deadline, _]:
                return Granted(lease_of(message.job_id, attempt, started_at, claimed_at, deadline))
            case ["busy", retry_after_s]:
                return Busy(float(retry_after_s))
            case ["ended", status, promoted]:
                return Ended(JobStatus(status), messages_of(map(paired, promoted)))
        raise AssertionError(answer)

    async def renew(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        by_shard: dict[str, list[Lease]] = defaultdict(list)
        for lease in leases:
            by_shard[self.layout.name(ids.shard_of(lease.job_id))].append(lease)

        async def void(shard: str, mine: Sequence[Lease]) -> list[Lease]:
            words = [word for lease in mine for word in (lease.job_id, lease.attempt)]
            kept = await self._run("renew", shard, self._settings.lease_s, *words)
            return [lease for lease, held in zip(mine, kept, strict=True) if not held]

        found = await asyncio.gather(*(void(shard, mine) for shard, mine in by_shard.items()))
        return [lease for each in found for lease in each]

    async def release(self, lease: Lease, *, fault: JobFailure | None = None) -> bool:
        counted = "" if fault is None else fault.model_dump_json()
        return bool(
            await self._run("release", ids.shard_of(lease.job_id), lease.job_id, lease.attempt, counted)
        )

    async def progress(self, lease: Lease, step: int, steps: int) -> bool:
        return bool(
            await self._run(
                "progress", ids.shard_of(lease.job_id), lease.job_id, lease.attempt, step, steps, MAX_TOLD
            )
        )

    async def preview(self, lease: Lease, preview: Preview) -> bool:
        shard, words = ids.shard_of(lease.job_id), (preview.index, preview.name)
        return bool(await self._run("preview", shard, lease.job_id, lease.attempt, *words, MAX_TOLD))

    async def end_many(self, ends: Sequence[End]) -> Sequence[EndAnswer]:
        return await self._ending.end(ends)

    async def close(self) -> None:
        """Before the clients are closed."""
        await self._ending.close()

    async def succeed(self, lease: Lease, result: JobResult) -> Finished:
        return await self._end(End(lease, result))

    async def fail(self, lease: Lease, failure: JobFailure) -> Finished:
        return await self._end(End(lease, failure))

    async def expire(self, lease: Lease) -> Finished:
        return await self._end(End(lease, None))

    async def _end(self, end: End) -> Finished:
        (answer,) = await self.end_many([end])
        if not isinstance(answer, Finished):
            raise _raised(answer)
        return answer

    async def cancel(self, tenant: str, job_id: str) -> tuple[Job, Finished]:
        applied, promoted, record = await self._run("cancel", ids.shard_of(job_id), job_id, tenant)
        fields = paired(record)
        if not fields or fields["status"] == "withdrawn":
            raise absent(job_id, self._clock.now() + self.skew_s, self._settings.job_retention_s)
        return job_of(fields), _finished(applied, promoted)

    async def sweep(self, shard: str, limit: int) -> tuple[Sequence[JobMessage], Sequence[JobMessage]]:
        return await self._housekeeping.sweep(shard, limit)

    async def steady(self, shard: str, elapsed_s: float | None) -> float:
        return await self._housekeeping.steady(shard, elapsed_s)

    async def forget_landed(self, keys: Sequence[str]) -> None:
        async with self._guard.store_errors(), self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hdel(self.layout.flight_key(key), "result")
            await pipeline.execute()

    async def take_sweeper_lease(self, name: str, lease_s: float) -> bool:
        return await self._housekeeping.take_sweeper_lease(name, lease_s)

    async def waiting(self, model: str, job_ids: Sequence[str] = ()) -> tuple[int, Sequence[int | None]]:
        return await self._order.waiting(model, job_ids)

    async def leaders(self, keys: Sequence[str]) -> Sequence[str | None]:
        async with self._guard.store_errors(), self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hget(self.layout.flight_key(key), "leader")
            leaders: list[str | None] = await pipeline.execute()
        return leaders

    async def ahead(self, model: str, flow: str) -> int:
        return await self._order.ahead(model, flow)

    async def _run(self, name: str, shard: str, *arguments: str | float) -> Any:
        return await self._scripts.run(name, self.layout.prefix(shard), *arguments)


def _finished(applied: int, promoted: Sequence[Sequence[str]]) -> Finished:
    return Finished(bool(applied), messages_of(map(paired, promoted)))


def _raised(answer: object) -> Exception:
    """What is raised where one job alone was asked for."""
    if isinstance(answer, Exception):
        return answer
    raise AssertionError(answer)
