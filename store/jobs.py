"""Job records in Redis. Each transition is one Lua script, atomic on the job's shard.
`lua/prelude.lua` lists the keys."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis

from cache.results import RedisResultCache
from contracts import ids
from contracts.errors import JobGone, JobNotFound, QueueFull, StoreUnavailable
from contracts.jobs import Job, JobFailure, JobMessage, JobResult, JobStatus, Lease, NewJob, Preview
from contracts.ports.clock import Clock
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
"""Only so many followers of one flight are notified of its steps and previews. All are notified of
its end."""


def absent(job_id: str, now_s: float, retention_s: float) -> JobNotFound | JobGone:
    """The error for an id without a record. The id holds its creation time. That time tells a job
    whose record has expired (`JobGone`) from one that never existed (`JobNotFound`)."""
    if ids.created_at(job_id) + retention_s < now_s:
        return JobGone("This job ended long ago; its record is no longer kept.")
    return JobNotFound("There is no such job.")


class RedisJobStore:
    """The `JobStore` on one Redis server or cluster. `skew_s` shifts its clock by seconds; for
    tests only."""

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
        # A script reaches the fair clocks only where one server holds all keys. It reaches the
        # result cache only where that is on the same server.
        single_server = layout.number == 1 and not is_cluster(settings.redis_url)
        cache_here = single_server and settings.cache_redis_url in (None, settings.redis_url)
        self._submitting = Submitting(
            client,
            self._scripts,
            layout,
            self._order,
            results,
            timeout_s,
            clocks=single_server,
            cached=cache_here,
        )
        self._ending = Ending(self._scripts, layout, results, together=cache_here)
        self._taking = Taking(client, settings, layout, self._scripts, guard, together=single_server)
        self._housekeeping = Housekeeping(self._scripts, layout, guard, clock, settings.lease_s)
        self._hits = HitBatcher(self._scripts, layout)

    @property
    def shards(self) -> Sequence[str]:
        """One digit for each shard of the store."""
        return self.layout.names

    @property
    def skew_s(self) -> float:
        """Seconds by which the store's clock is shifted; for tests only."""
        return self._scripts.skew_s

    @skew_s.setter
    def skew_s(self, seconds: float) -> None:
        self._scripts.skew_s = seconds

    async def submit(
        self, new: NewJob, result: JobResult | None = None, *, may_lead: bool = True
    ) -> Submitted:
        """Record one job; with `result`, as a cache hit. Raises `QueueFull` where it would have to
        lead and may not, `RecordUnreadable`, `StoreUnavailable`."""
        if result is not None:
            # A hit computes nothing, so it takes no place in the queue.
            return Submitted(await self._hits.add(new, result), lead=False)
        (answer,) = await self.submit_many([Submission(new, most_ahead=None if may_lead else NEVER)])
        if isinstance(answer, TooManyAhead):
            raise QueueFull("No more computations are taken.")
        if not isinstance(answer, Submitted):
            raise _raised(answer)
        return answer

    async def submit_many(self, submissions: Sequence[Submission]) -> Sequence[SubmitAnswer]:
        """Record several jobs. Each gets its own answer, in their order."""
        return await self._submitting.submit(submissions)

    async def confirm(self, job_id: str) -> None:
        """Take the job out of the outbox: the broker has its message."""
        await self.confirm_many([job_id])

    async def confirm_many(self, job_ids: Sequence[str]) -> None:
        """As `confirm`, for several jobs."""
        by_prefix: dict[str, list[str]] = defaultdict(list)
        for job_id in job_ids:
            by_prefix[self.layout.job_prefix(job_id)].append(job_id)
        async with self._guard.store_errors():
            for prefix, shard_ids in by_prefix.items():
                await self._client.zrem(f"{prefix}outbox", *shard_ids)

    async def withdraw(self, job_id: str) -> Finished:
        """Undo the submit of a job whose message could not be published."""
        applied, promoted = await self._run("withdraw", ids.shard_of(job_id), job_id)
        return _finished(applied, promoted)

    async def get(self, tenant: str, job_id: str) -> Job:
        """The tenant's job. Raises `JobNotFound`, `JobGone`, `RecordUnreadable`,
        `StoreUnavailable`."""
        record = paired(await self._run("read", ids.shard_of(job_id), job_id, tenant))
        if not record:
            raise absent(job_id, self._clock.now() + self.skew_s, self._settings.job_retention_s)
        return job_of(record)

    async def owner(self, job_id: str) -> str | None:
        """The tenant of the job; None: there is no record."""
        async with self._guard.store_errors():
            tenant: Any = await self._client.hget(self.layout.job_key(job_id), "tenant")
        return None if tenant is None else str(tenant)

    async def statuses(self, job_ids: Sequence[str]) -> Sequence[JobStatus | None]:
        """The status of each job; None: there is no record."""
        async with self._guard.store_errors():
            return await read_statuses(self._client, [self.layout.job_key(job_id) for job_id in job_ids])

    async def list(self, tenant: str, limit: int, before: str | None = None) -> Sequence[Job]:
        """At most `limit` jobs of the tenant, newest first, older than the job id `before`."""
        return await newest_jobs(self._client, self._guard, self.layout, tenant, limit, before)

    async def take(self, model: str, worker_id: str, limit: int) -> Taken:
        """Take up to `limit` of the model's waiting jobs for the worker, in fair order. A job whose
        record cannot be read is given back at once, and the attempt counts."""
        taken = await self._taking.take(model, worker_id, limit)
        for lease in taken.damaged:
            with suppress(StoreUnavailable):
                await self.release(lease, fault=DAMAGED)
        return Taken(taken.jobs, taken.promoted)

    async def claim(self, message: JobMessage, worker_id: str, *, leave_waiting: bool = False) -> Claim:
        """Take the job of a message for one attempt. With `leave_waiting`, a waiting job is left to
        `take`."""
        grant = {**self._taking.rules, "worker": worker_id, "leave_waiting": leave_waiting}
        times = {"created_at": message.created_at, "deadline": message.deadline}
        document = {**static_parts(message.job_id, message), **times}
        answer = await self._run("claim", ids.shard_of(message.job_id), as_json(grant), as_json(document))
        match answer:
            case ["granted", attempt, started_at, claimed_at, deadline, _]:
                return Granted(lease_of(message.job_id, attempt, started_at, claimed_at, deadline))
            case ["busy", retry_after_s]:
                return Busy(float(retry_after_s))
            case ["ended", status, promoted]:
                return Ended(JobStatus(status), messages_of(map(paired, promoted)))
        raise AssertionError(answer)

    async def renew(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Extend the leases by `lease_s` of the settings. Answers the leases that no longer
        hold."""
        by_shard: dict[str, list[Lease]] = defaultdict(list)
        for lease in leases:
            by_shard[self.layout.name(ids.shard_of(lease.job_id))].append(lease)

        async def void_on(shard: str, shard_leases: Sequence[Lease]) -> list[Lease]:
            arguments = [argument for lease in shard_leases for argument in (lease.job_id, lease.attempt)]
            held = await self._run("renew", shard, self._settings.lease_s, *arguments)
            return [lease for lease, holds in zip(shard_leases, held, strict=True) if not holds]

        void_leases = await asyncio.gather(
            *(void_on(shard, shard_leases) for shard, shard_leases in by_shard.items())
        )
        return [lease for leases_of_shard in void_leases for lease in leases_of_shard]

    async def release(self, lease: Lease, *, fault: JobFailure | None = None) -> bool:
        """Give a running job back to the queue. With `fault` the attempt counts. Answers whether
        the lease held."""
        fault_text = "" if fault is None else fault.model_dump_json()
        return bool(
            await self._run("release", ids.shard_of(lease.job_id), lease.job_id, lease.attempt, fault_text)
        )

    async def progress(self, lease: Lease, step: int, steps: int) -> bool:
        """Record that `step` of `steps` denoising steps are done, and notify the watchers. Answers
        whether the lease holds."""
        return bool(
            await self._run(
                "progress", ids.shard_of(lease.job_id), lease.job_id, lease.attempt, step, steps, MAX_TOLD
            )
        )

    async def preview(self, lease: Lease, preview: Preview) -> bool:
        """Notify the watchers of a preview. Answers whether the lease holds."""
        shard, arguments = ids.shard_of(lease.job_id), (preview.index, preview.name)
        return bool(await self._run("preview", shard, lease.job_id, lease.attempt, *arguments, MAX_TOLD))

    async def end_many(self, ends: Sequence[End]) -> Sequence[EndAnswer]:
        """End running jobs, each under its own lease. Each gets its own answer, in their order."""
        return await self._ending.end(ends)

    async def close(self) -> None:
        """Wait a moment for results on their way to the cache. Call it before the clients are
        closed."""
        await self._ending.close()

    async def succeed(self, lease: Lease, result: JobResult) -> Finished:
        """End the job `succeeded`, and its followers with it."""
        return await self._end(End(lease, result))

    async def fail(self, lease: Lease, failure: JobFailure) -> Finished:
        """End the job `failed`. Its oldest follower may lead now."""
        return await self._end(End(lease, failure))

    async def expire(self, lease: Lease) -> Finished:
        """End the job `expired`. Its oldest follower leads now."""
        return await self._end(End(lease, None))

    async def _end(self, end: End) -> Finished:
        (answer,) = await self.end_many([end])
        if not isinstance(answer, Finished):
            raise _raised(answer)
        return answer

    async def cancel(self, tenant: str, job_id: str) -> tuple[Job, Finished]:
        """End the tenant's job `canceled`; an ended one stays as it is. Raises `JobNotFound`,
        `JobGone`, `RecordUnreadable`, `StoreUnavailable`."""
        applied, promoted, record = await self._run("cancel", ids.shard_of(job_id), job_id, tenant)
        fields = paired(record)
        if not fields or fields["status"] == "withdrawn":
            raise absent(job_id, self._clock.now() + self.skew_s, self._settings.job_retention_s)
        return job_of(fields), _finished(applied, promoted)

    async def sweep(self, shard: str, limit: int) -> tuple[Sequence[JobMessage], Sequence[JobMessage]]:
        """End overdue jobs of a shard, at most `limit`. Answers the messages to publish again and
        the promoted ones."""
        return await self._housekeeping.sweep(shard, limit)

    async def steady(self, shard: str, elapsed_s: float | None) -> float:
        """Move the shard's deadlines if the store's clock was set. Answers by how many seconds it
        was set."""
        return await self._housekeeping.steady(shard, elapsed_s)

    async def forget_landed(self, keys: Sequence[str]) -> None:
        """Delete results that are kept beside these flights."""
        async with self._guard.store_errors(), self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hdel(self.layout.flight_key(key), "result")
            await pipeline.execute()

    async def take_sweeper_lease(self, name: str, lease_s: float) -> bool:
        """Whether the process `name` holds the sweeper lease for `lease_s` seconds from now."""
        return await self._housekeeping.take_sweeper_lease(name, lease_s)

    async def waiting(self, model: str, job_ids: Sequence[str] = ()) -> tuple[int, Sequence[int | None]]:
        """How many jobs wait for the model, and how many are ahead of each id (None: it does not
        wait)."""
        return await self._order.waiting(model, job_ids)

    async def leaders(self, keys: Sequence[str]) -> Sequence[str | None]:
        """The leader of each cache key; None: nobody computes it."""
        async with self._guard.store_errors(), self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hget(self.layout.flight_key(key), "leader")
            leaders: list[str | None] = await pipeline.execute()
        return leaders

    async def ahead(self, model: str, flow: str) -> int:
        """How many waiting jobs would be ahead of the next job of `flow`."""
        return await self._order.ahead(model, flow)

    async def _run(self, name: str, shard: str, *arguments: str | float) -> Any:
        return await self._scripts.run(name, self.layout.prefix(shard), *arguments)


def _finished(applied: int, promoted: Sequence[Sequence[str]]) -> Finished:
    return Finished(bool(applied), messages_of(map(paired, promoted)))


def _raised(answer: object) -> Exception:
    """The exception to raise for the answer to a single job."""
    if isinstance(answer, Exception):
        return answer
    raise AssertionError(answer)
