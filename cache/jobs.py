"""Job records in Redis: every transition is one Lua script, atomic on the job's shard. `lua/prelude.lua` lists the keys."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import Redis

from cache.connection import reaching
from cache.hits import HitRecorder
from cache.key_names import HOUSE, Layout, fair_prefix
from cache.layout import SCHEMA as LAYOUT_SCHEMA
from cache.layout import LayoutGuard
from cache.listing import newest_jobs
from cache.packed_request import pack
from cache.records import hook_json, job_of, lease_of, messages_of, paired
from cache.statuses import read_statuses
from cache.taking import Taking
from contracts import ids
from contracts.clock import Clock
from contracts.errors import (
    AttemptsExhausted,
    JobGone,
    JobNotFound,
    QueueFull,
    StoreUnavailable,
    WorkerFault,
)
from contracts.jobs import (
    Job,
    JobFailure,
    JobMessage,
    JobResult,
    JobStatus,
    Lease,
    NewJob,
    Preview,
)
from contracts.ports import Busy, Claim, Ended, Finished, Granted, Submitted, Taken
from contracts.settings import BackendSettings
from scheduler.fairness import flow_of

STALE_S: Final = 5.0
"""A leader whose message has not been confirmed for this long is published again."""
PROMPT_S: Final = 1.0
"""A call that took longer says nothing of the store's clock: the store may have carried it out late."""
SEEN_KEYS: Final = 4096
LAST_ID: Final = "~"
MAX_TOLD: Final = 256
"""Followers of one flight that are told of its steps; of its end all are told."""
NOTHING: Final = Finished(applied=False)

EXHAUSTED: Final = JobFailure(
    code=AttemptsExhausted.code,
    message="Every attempt to compute this job ended with the worker lost.",
    retryable=True,
)
DAMAGED: Final = JobFailure(code=WorkerFault.code, message="The record of this job cannot be read.")
_EXHAUSTED_JSON: Final = EXHAUSTED.model_dump_json()


def absent(job_id: str, now_s: float, retention_s: float) -> JobNotFound | JobGone:
    """The error for an id without a record: its own time tells a forgotten job from one that never was."""
    if ids.created_at(job_id) + retention_s < now_s:
        return JobGone("This job ended long ago; its record is no longer kept.")
    return JobNotFound("There is no such job.")


class RedisJobStore:
    """The `JobStore` on one Redis server or cluster. `skew_s` shifts its clock; for tests only."""

    def __init__(self, client: Redis, settings: BackendSettings, clock: Clock, guard: LayoutGuard) -> None:
        self._client = client
        self._settings = settings
        self._clock = clock
        self.layout = Layout(settings.shards)
        self._guard = guard
        self.skew_s = 0.0
        self._scripts: dict[str, Any] = {}
        self._marks: dict[str, str] = {}
        """The mark that our last sweep of each shard left, by the store's clock."""
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._taking = Taking(client, settings, self.layout, self._run, _EXHAUSTED_JSON)
        self._hits = HitRecorder(
            lambda shard, arguments: self._run("hit", shard, *arguments),
            lambda record: job_of(paired(record)),
            self.layout,
        )

    @property
    def shards(self) -> Sequence[str]:
        return self.layout.names

    async def submit(
        self, new: NewJob, result: JobResult | None = None, *, may_lead: bool = True
    ) -> Submitted:
        if result is not None:
            # What is there already takes no turn.
            return Submitted(await self._hits.add(new, result), lead=False)
        if self._may_join(new.key):
            # A crowd that asks for one picture takes no turns: all but its first member join it.
            joined = await self._submit(new, may_lead=False, tag="0")
            if joined is not None:
                return joined
        flow, share = flow_of(new.tenant, new.priority), new.cost / new.weight
        clock = fair_prefix(new.request.model)
        tag = await self._eval("ticket", clock, flow, share)
        submitted = await self._submit(new, may_lead=may_lead, tag=tag)
        if submitted is None or not submitted.lead:
            # It computes nothing of its own after all: its turn is given back.
            async with self._reaching():
                await self._client.zincrby(f"{clock}finish", -share, flow)
        if submitted is None:
            raise QueueFull("No more computations are taken.")
        return submitted

    async def _submit(self, new: NewJob, *, may_lead: bool, tag: str) -> Submitted | None:
        """None: it would have to lead, and may not."""
        lead, record = await self._run(
            "submit",
            ids.shard_of(new.id),
            new.id,
            new.tenant,
            new.key,
            new.request.model,
            pack(new.request),
            new.ttl_s,
            "",
            "1" if may_lead else "0",
            new.priority.value,
            tag,
            new.origin.model_dump_json(exclude_none=True),
            hook_json(new.webhook),
        )
        return None if lead < 0 else Submitted(job=job_of(paired(record)), lead=bool(lead))

    def _may_join(self, key: str) -> bool:
        """Whether this process has lately seen the key, and notes that it has."""
        seen = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > SEEN_KEYS:
            self._seen.popitem(last=False)
        return seen

    async def confirm(self, job_id: str) -> None:
        async with self._reaching():
            await self._client.zrem(f"{self.layout.job_prefix(job_id)}outbox", job_id)

    async def withdraw(self, job_id: str) -> Finished:
        applied, promoted = await self._run("withdraw", ids.shard_of(job_id), job_id)
        return Finished(bool(applied), messages_of(promoted))

    async def get(self, tenant: str, job_id: str) -> Job:
        record = paired(await self._run("read", ids.shard_of(job_id), job_id, tenant))
        if not record:
            raise absent(job_id, self._clock.now() + self.skew_s, self._settings.job_retention_s)
        return job_of(record)

    async def owner(self, job_id: str) -> str | None:
        async with self._reaching():
            tenant: Any = await self._client.hget(self.layout.job_key(job_id), "tenant")
        return None if tenant is None else str(tenant)

    async def statuses(self, job_ids: Sequence[str]) -> Sequence[JobStatus | None]:
        async with self._reaching():
            return await read_statuses(self._client, [self.layout.job_key(job_id) for job_id in job_ids])

    async def list(self, tenant: str, limit: int, before: str | None = None) -> Sequence[Job]:
        timeout_s = self._settings.redis_timeout_s
        return await newest_jobs(self._client, timeout_s, self.layout, tenant, limit, before)

    async def take(self, model: str, worker_id: str, limit: int) -> Taken:
        taken = await self._taking.take(model, worker_id, limit)
        for lease in taken.damaged:
            with suppress(StoreUnavailable):
                await self.release(lease, fault=DAMAGED)
        return Taken(taken.jobs, taken.promoted)

    async def claim(self, message: JobMessage, worker_id: str, *, leave_waiting: bool = False) -> Claim:
        answer = await self._run(
            "claim",
            ids.shard_of(message.job_id),
            message.job_id,
            message.tenant,
            message.key,
            message.request.model,
            pack(message.request),
            message.created_at,
            message.deadline,
            message.priority.value,
            worker_id,
            self._settings.lease_s,
            self._settings.max_attempts,
            _EXHAUSTED_JSON,
            "1" if leave_waiting else "0",
            message.origin.model_dump_json(exclude_none=True),
            hook_json(message.webhook),
        )
        match answer:
            case ["granted", attempt, started_at, claimed_at, deadline, _]:
                return Granted(lease_of(message.job_id, attempt, started_at, claimed_at, deadline))
            case ["busy", retry_after_s]:
                return Busy(float(retry_after_s))
            case ["ended", status, promoted]:
                return Ended(JobStatus(status), messages_of(promoted))
        raise AssertionError(answer)

    async def renew(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        kept = await asyncio.gather(
            *(
                self._run(
                    "renew", ids.shard_of(lease.job_id), lease.job_id, lease.attempt, self._settings.lease_s
                )
                for lease in leases
            )
        )
        return [lease for lease, held in zip(leases, kept, strict=True) if not held]

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

    async def succeed(self, lease: Lease, result: JobResult) -> Finished:
        applied = await self._run(
            "succeed", ids.shard_of(lease.job_id), lease.job_id, lease.attempt, result.model_dump_json()
        )
        return Finished(bool(applied))

    async def fail(self, lease: Lease, failure: JobFailure) -> Finished:
        applied, promoted = await self._run(
            "fail", ids.shard_of(lease.job_id), lease.job_id, lease.attempt, failure.model_dump_json()
        )
        return Finished(bool(applied), messages_of(promoted))

    async def expire(self, lease: Lease) -> Finished:
        applied, promoted = await self._run("expire", ids.shard_of(lease.job_id), lease.job_id, lease.attempt)
        return Finished(bool(applied), messages_of(promoted))

    async def cancel(self, tenant: str, job_id: str) -> tuple[Job, Finished]:
        applied, promoted, record = await self._run("cancel", ids.shard_of(job_id), job_id, tenant)
        fields = paired(record)
        if not fields or fields["status"] == "withdrawn":
            raise absent(job_id, self._clock.now() + self.skew_s, self._settings.job_retention_s)
        return job_of(fields), Finished(bool(applied), messages_of(promoted))

    async def sweep(self, shard: str, limit: int) -> tuple[Sequence[JobMessage], Sequence[JobMessage]]:
        stale, promoted = await self._run("sweep", shard, limit, STALE_S, self._settings.lease_s)
        return messages_of(stale), messages_of(promoted)

    async def steady(self, shard: str, elapsed_s: float | None) -> float:
        shard = self.layout.name(shard)
        begun, mark = self._clock.monotonic(), self._marks.pop(shard, "")
        arguments = ("" if elapsed_s is None else elapsed_s, mark, self._settings.lease_s)
        step_s, now = await self._run("steady", shard, *arguments, "")
        if float(step_s):
            if self._clock.monotonic() - begun >= PROMPT_S:
                return 0.0
            step_s, now = await self._run("steady", shard, *arguments, now)
        self._marks[shard] = now
        return float(step_s)

    async def forget_landed(self, keys: Sequence[str]) -> None:
        async with self._reaching(), self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hdel(self.layout.flight_key(key), "result")
            await pipeline.execute()

    async def elect(self, name: str, lease_s: float) -> bool:
        layout = (self._guard.document, self.layout.number, LAYOUT_SCHEMA)
        elected = await self._eval("elect", HOUSE, name, lease_s, *layout)
        if elected < 0:
            raise self._guard.changed()
        return bool(elected)

    async def waiting(self, model: str, job_ids: Sequence[str] = ()) -> tuple[int, Sequence[int | None]]:
        async with self._reaching(), self._client.pipeline(transaction=False) as pipeline:
            for prefix in self.layout.prefixes:
                pipeline.zcard(f"{prefix}waiting:{model}")
            for job_id in job_ids:
                pipeline.zscore(f"{self.layout.job_prefix(job_id)}waiting:{model}", job_id)
            answers = await pipeline.execute()
        tags: list[float | None] = answers[self.layout.number :]
        places = [(tag, job_id) for tag, job_id in zip(tags, job_ids, strict=True) if tag is not None]
        counts = iter(await self._before(model, places))
        return sum(answers[: self.layout.number]), [None if tag is None else next(counts) for tag in tags]

    async def leaders(self, keys: Sequence[str]) -> Sequence[str | None]:
        async with self._reaching(), self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hget(self.layout.flight_key(key), "leader")
            leaders: list[str | None] = await pipeline.execute()
        return leaders

    async def ahead(self, model: str, flow: str) -> int:
        clock = fair_prefix(model)
        async with self._reaching(), self._client.pipeline(transaction=False) as pipeline:
            pipeline.zscore(f"{clock}clock", "now")
            pipeline.zscore(f"{clock}finish", flow)
            tag = max(score or 0.0 for score in await pipeline.execute())
        return (await self._before(model, [(tag, LAST_ID)]))[0]

    async def _before(self, model: str, places: Sequence[tuple[float, str]]) -> Sequence[int]:
        """How many waiting jobs are before each place: those of a smaller tag, and of the same one the older."""
        if not places:
            return []
        async with self._reaching(), self._client.pipeline(transaction=False) as pipeline:
            for tag, _ in places:
                for prefix in self.layout.prefixes:
                    queue = f"{prefix}waiting:{model}"
                    pipeline.zcount(queue, "-inf", f"({tag!r}")
                    pipeline.zrange(queue, tag, tag, byscore=True)
            answers = iter(await pipeline.execute())
        return [
            sum(next(answers) + sum(other < job_id for other in next(answers)) for _ in self.layout.prefixes)
            for _, job_id in places
        ]

    async def _run(self, name: str, shard: str, *arguments: str | float) -> Any:
        return await self._eval(name, self.layout.prefix(shard), *arguments)

    async def _eval(self, name: str, prefix: str, *arguments: str | float) -> Any:
        if not self._guard.passed:
            await self._guard.require()
        async with self._reaching():
            return await self._script(name)(
                keys=[prefix],
                args=[self.skew_s, self._settings.job_retention_s, *arguments],
            )

    def _script(self, name: str) -> Any:
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self._client.register_script(lua_source(name))
        return script

    def _reaching(self) -> Any:
        return reaching("job store", self._settings.redis_timeout_s)


@cache
def lua_source(name: str) -> str:
    """A transition's script behind what all share. Scripts travel by their hash, and in full once after a restart."""
    folder = files("cache") / "lua"
    return (folder / "prelude.lua").read_text() + (folder / f"{name}.lua").read_text()
