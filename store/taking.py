"""Which of a model's waiting jobs a worker gets: the first in fair order, over all shards, that its
version can run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis

from contracts.documents import SCHEMA
from contracts.errors import RecordUnreadable, StoreUnavailable
from contracts.failures import AttemptsExhausted, WorkerFault
from contracts.ids import shard_of
from contracts.jobs import JobFailure, JobMessage, Lease
from contracts.settings import BackendSettings
from contracts.transitions import TakenJob
from store.key_names import Layout, fair_prefix
from store.layout import LayoutGuard
from store.records import lease_of, message_of, messages_of, paired, read
from store.scripts import Scripts, as_json

MAX_PASSED_OVER: Final = 1000
"""One look passes over at most so many waiting jobs that need a newer version."""
EXHAUSTED: Final = JobFailure(
    code=AttemptsExhausted.code,
    message="Every attempt to compute this job ended with the worker lost.",
    retryable=True,
)
DAMAGED: Final = JobFailure(code=WorkerFault.code, message="The record of this job cannot be read.")


@dataclass(frozen=True, slots=True)
class TakenNow:
    """The result of one look at the queue.

    `damaged` are leases of jobs whose records cannot be read. Give them back as counted attempts,
    so that these jobs end. `newer` are ids of jobs that need a newer version; they were left.
    """

    jobs: tuple[TakenJob, ...] = ()
    promoted: tuple[JobMessage, ...] = ()
    damaged: tuple[Lease, ...] = ()
    newer: frozenset[str] = frozenset()


class Taking:
    """Takes jobs from every shard of the job store. `together`: there is one shard, and the script
    reaches the fair clocks."""

    def __init__(
        self,
        client: Redis,
        settings: BackendSettings,
        layout: Layout,
        scripts: Scripts,
        guard: LayoutGuard,
        *,
        together: bool,
    ) -> None:
        self._client = client
        self._guard = guard
        self._keep_ms = int(settings.job_retention_s * 1000)
        self._layout = layout
        self._scripts = scripts
        self._together = together
        self.rules = {
            "lease_s": settings.lease_s,
            "max_attempts": settings.max_attempts,
            "exhausted": EXHAUSTED.model_dump_json(),
        }
        """What `grant` of `lua/moves.lua` needs to know for any worker."""

    async def take(self, model: str, worker_id: str, limit: int) -> TakenNow:
        """Up to `limit` jobs of the model for the worker. Raises `StoreUnavailable`."""
        grant = {**self.rules, "worker": worker_id, "model": model, "schema": SCHEMA}
        if self._together:
            grant |= {"limit": limit, "most_newer": MAX_PASSED_OVER}
            return _taken([await self._scripts.run("take", self._layout.prefixes[0], as_json(grant))])
        newer: frozenset[str] = frozenset()
        while True:
            # Jobs that need a newer version keep their places. Look behind them.
            waiting_ids = [
                job_id for job_id in await self._first(model, limit + len(newer)) if job_id not in newer
            ]
            if not waiting_ids:
                return TakenNow()
            taken = await self._take(grant, waiting_ids[:limit])
            newer |= taken.newer
            if taken.jobs or taken.promoted or not taken.newer or len(newer) > MAX_PASSED_OVER:
                return taken

    async def _first(self, model: str, limit: int) -> Sequence[str]:
        """The ids of the first waiting jobs, in fair order."""
        async with self._guard.store_errors(), self._client.pipeline(transaction=False) as pipeline:
            for prefix in self._layout.prefixes:
                pipeline.zrange(f"{prefix}waiting:{model}", 0, limit - 1, withscores=True)
            pages = await pipeline.execute()
        places = sorted((tag, job_id) for page in pages for job_id, tag in page)
        return [job_id for _, job_id in places[:limit]]

    async def _take(self, grant: dict[str, Any], waiting_ids: Sequence[str]) -> TakenNow:
        by_shard: dict[str, list[str]] = {}
        for job_id in waiting_ids:
            by_shard.setdefault(self._layout.prefix(shard_of(job_id)), []).append(job_id)
        outcomes = await asyncio.gather(
            *(
                self._scripts.run("take", prefix, as_json({**grant, "ids": job_ids}))
                for prefix, job_ids in by_shard.items()
            ),
            return_exceptions=True,
        )
        # Jobs that one shard granted are ours, even if another shard failed.
        answers = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        if not answers:
            raise next(outcome for outcome in outcomes if isinstance(outcome, BaseException))
        result = _taken(answers)
        if result.jobs:
            # If this fails, newcomers get a slightly too early tag. Nothing else happens.
            with suppress(StoreUnavailable):
                await self._advance(grant["model"], result.jobs[-1].tag)
        return result

    async def _advance(self, model: str, tag: float) -> None:
        """Sets the virtual time to the tag of the last job taken."""
        fair = fair_prefix(model)
        async with self._guard.store_errors(), self._client.pipeline(transaction=False) as pipeline:
            pipeline.zadd(f"{fair}finish", {"": tag}, gt=True)
            # Version 0.2.0 reads the virtual time here, and may run beside this one.
            pipeline.zadd(f"{fair}clock", {"now": tag}, gt=True)
            pipeline.pexpire(f"{fair}clock", self._keep_ms)
            await pipeline.execute()


def _taken(answers: Sequence[Any]) -> TakenNow:
    """The script's answers for all shards as one, with the jobs in fair order."""
    jobs, damaged = list[TakenJob](), list[Lease]()
    for taken, _, _ in answers:
        for fields, attempt, started, claimed, deadline, tag in taken:
            record = paired(fields)
            lease = lease_of(record["id"], attempt, started, claimed, deadline)
            try:
                message = read("job", record["id"], partial(message_of, record))
            except RecordUnreadable:
                damaged.append(lease)
            else:
                jobs.append(TakenJob(message, lease, float(tag)))
    return TakenNow(
        jobs=tuple(sorted(jobs, key=lambda job: (job.tag, job.message.job_id))),
        promoted=messages_of(paired(record) for _, promoted, _ in answers for record in promoted),
        damaged=tuple(damaged),
        newer=frozenset(job_id for _, _, left in answers for job_id in left),
    )
