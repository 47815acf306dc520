"""Which of a model's waiting jobs a worker gets: the first in the fair order, over all shards of the store, that its version can run."""

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
"""Waiting jobs that need a newer version, and that one look goes past."""
EXHAUSTED: Final = JobFailure(
    code=AttemptsExhausted.code,
    message="Every attempt to compute this job ended with the worker lost.",
    retryable=True,
)
DAMAGED: Final = JobFailure(code=WorkerFault.code, message="The record of this job cannot be read.")


@dataclass(frozen=True, slots=True)
class TakenNow:
    """What one look gave. `damaged` are leases of jobs whose records cannot be read: they must be given back, counted, so that
    they end by their attempts. `newer` are jobs that were left, for they need a newer version."""

    jobs: tuple[TakenJob, ...] = ()
    promoted: tuple[JobMessage, ...] = ()
    damaged: tuple[Lease, ...] = ()
    newer: frozenset[str] = frozenset()


class Taking:
    """Takes jobs from every shard of the job store. `together`: there is one, with the fair clocks within the script's reach."""

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
        """What `grant` of `lua/moves.lua` must know of any worker."""

    async def take(self, model: str, worker_id: str, limit: int) -> TakenNow:
        """Up to `limit` jobs of the model for the worker. Raises `StoreUnavailable`."""
        by = {**self.rules, "worker": worker_id, "model": model, "schema": SCHEMA}
        if self._together:
            by |= {"limit": limit, "most_newer": MAX_PASSED_OVER}
            return _taken([await self._scripts.run("take", self._layout.prefixes[0], as_json(by))])
        newer: frozenset[str] = frozenset()
        while True:
            # Jobs that need a newer version keep their places: look behind them.
            first = [each for each in await self._first(model, limit + len(newer)) if each not in newer]
            if not first:
                return TakenNow()
            taken = await self._take(by, first[:limit])
            newer |= taken.newer
            if taken.jobs or taken.promoted or not taken.newer or len(newer) > MAX_PASSED_OVER:
                return taken

    async def _first(self, model: str, limit: int) -> Sequence[str]:
        """The ids of the jobs that wait, in their order."""
        async with self._guard.store_errors(), self._client.pipeline(transaction=False) as pipeline:
            for prefix in self._layout.prefixes:
                pipeline.zrange(f"{prefix}waiting:{model}", 0, limit - 1, withscores=True)
            pages = await pipeline.execute()
        places = sorted((tag, job_id) for page in pages for job_id, tag in page)
        return [job_id for _, job_id in places[:limit]]

    async def _take(self, by: dict[str, Any], first: Sequence[str]) -> TakenNow:
        by_shard: dict[str, list[str]] = {}
        for job_id in first:
            by_shard.setdefault(self._layout.prefix(shard_of(job_id)), []).append(job_id)
        tried = await asyncio.gather(
            *(
                self._scripts.run("take", prefix, as_json({**by, "ids": job_ids}))
                for prefix, job_ids in by_shard.items()
            ),
            return_exceptions=True,
        )
        # What one shard gave is ours, whatever another says.
        answers = [each for each in tried if not isinstance(each, BaseException)]
        if not answers:
            raise next(each for each in tried if isinstance(each, BaseException))
        taken = _taken(answers)
        if taken.jobs:
            # Without it newcomers are a little too early, no more.
            with suppress(StoreUnavailable):
                await self._advance(by["model"], taken.jobs[-1].tag)
        return taken

    async def _advance(self, model: str, tag: float) -> None:
        """The virtual time is that of the last job taken."""
        fair = fair_prefix(model)
        async with self._guard.store_errors(), self._client.pipeline(transaction=False) as pipeline:
            pipeline.zadd(f"{fair}finish", {"": tag}, gt=True)
            # Where version 0.2.0 reads it, which may run beside this one.
            pipeline.zadd(f"{fair}clock", {"now": tag}, gt=True)
            pipeline.pexpire(f"{fair}clock", self._keep_ms)
            await pipeline.execute()


def _taken(answers: Sequence[Any]) -> TakenNow:
    """What the script answered for each shard, as one; the jobs in their order."""
    jobs, damaged = list[TakenJob](), list[Lease]()
    for taken, _, _ in answers:
        for flat, attempt, started, claimed, deadline, tag in taken:
            record = paired(flat)
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
