"""Accounts of API keys: rate, live jobs, pictures of the day. In Redis each charge is one Lua script on the key's slot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import Redis

from cache.connection import reaching
from contracts.clock import Clock
from contracts.tenancy import Account, Charge, Limits

LEFT_BEHIND_S: Final = 60.0
"""A job still held this long after its deadline was left behind by a crash."""
DAY_S: Final = 86_400


class RedisQuotaLedger:
    """The `QuotaLedger` on a Redis server. `skew_s` shifts its clock; for tests only."""

    def __init__(self, client: Redis, job_ttl_s: float, timeout_s: float) -> None:
        self._client = client
        self._hold_s = job_ttl_s + LEFT_BEHIND_S
        self._timeout_s = timeout_s
        self.skew_s = 0.0

    async def admit(
        self, key_id: str, limits: Limits, charge: Charge, *, charge_rate: bool = True
    ) -> Account:
        refused, retry_after_s, full_in_s, live, queued, images, day_ends_in_s = await self._run(
            "quota_admit",
            key_id,
            self.skew_s,
            charge.job_id,
            charge.images,
            _flag(charge_rate),
            _flag(charge.computed),
            _flag(charge.repeats),
            interval_s(limits),
            limits.burst_size,
            _or_none(limits.concurrent_jobs),
            _or_none(limits.queued_jobs),
            _or_none(limits.images_per_day),
            self._hold_s,
        )
        return Account(
            refused, float(retry_after_s), float(full_in_s), live, queued, images, float(day_ends_in_s)
        )

    async def refund(self, key_id: str, limits: Limits, charge: Charge) -> None:
        counted = _flag(limits.images_per_day is not None)
        await self._run("quota_refund", key_id, self.skew_s, charge.job_id, charge.images, counted)

    async def held(self, key_id: str) -> Sequence[tuple[str, float]]:
        async with (
            reaching("quota ledger", self._timeout_s),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            for name in ("queued", "running"):
                pipeline.zrange(f"{account_prefix(key_id)}{name}", 0, -1, withscores=True)
            parts = await pipeline.execute()
            # By a script: a cluster answers for the node that holds the key.
            seconds, microseconds = await self._client.eval(
                "return redis.call('TIME')", 1, account_prefix(key_id)
            )
        now = float(seconds) + float(microseconds) / 1e6 + self.skew_s
        return [(job_id, now - admitted_at) for part in parts for job_id, admitted_at in part]

    async def settle(
        self, key_id: str, ended: Sequence[str], running: Sequence[str], queued: Sequence[str]
    ) -> None:
        counts = (len(ended), len(running))
        await self._run("quota_settle", key_id, self._hold_s, *counts, *ended, *running, *queued)

    async def _run(self, name: str, key_id: str, *arguments: str | float) -> Any:
        async with reaching("quota ledger", self._timeout_s):
            return await self._client.register_script(_source(name))(
                keys=[account_prefix(key_id)], args=arguments
            )


@dataclass(slots=True)
class _Account:
    tat: float = 0.0
    queued: dict[str, float] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    images: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    once: set[str] = field(default_factory=set)


class MemoryQuotaLedger:
    """The `QuotaLedger` in memory: the twin of the scripts."""

    def __init__(self, job_ttl_s: float, clock: Clock) -> None:
        self._hold_s = job_ttl_s + LEFT_BEHIND_S
        self._clock = clock
        self._accounts: dict[str, _Account] = defaultdict(_Account)

    async def admit(
        self, key_id: str, limits: Limits, charge: Charge, *, charge_rate: bool = True
    ) -> Account:
        mine, now = self._accounts[key_id], self._clock.now()
        interval = interval_s(limits)
        for part in (mine.queued, mine.running):
            part.update({each: min(since, now) for each, since in part.items()})
            for job_id in [each for each, since in part.items() if since <= now - self._hold_s]:
                del part[job_id]
        mine.tat = max(mine.tat, now)
        if interval:
            mine.tat = min(mine.tat, now + limits.burst_size * interval)
        today = int(now // DAY_S)

        def answer(refused: str = "", retry_after_s: float = 0.0) -> Account:
            live = len(mine.queued) + len(mine.running)
            left_s, images = DAY_S - now % DAY_S, mine.images[today]
            return Account(refused, retry_after_s, mine.tat - now, live, len(mine.queued), images, left_s)

        if charge.repeats and charge.job_id in mine.once:
            return answer()
        if interval and charge_rate:
            wait_s = mine.tat + interval - limits.burst_size * interval - now
            if wait_s > 1e-6:
                return answer("requests_per_minute", wait_s)
            mine.tat += interval
        if charge.computed:
            live = len(mine.queued) + len(mine.running)
            if limits.concurrent_jobs is not None and live >= limits.concurrent_jobs:
                return answer("concurrent_jobs", 1.0)
            if limits.queued_jobs is not None and len(mine.queued) >= limits.queued_jobs:
                return answer("queued_jobs", 1.0)
        if limits.images_per_day is not None:
            if mine.images[today] + charge.images > limits.images_per_day:
                return answer("images_per_day", DAY_S - now % DAY_S)
            mine.images[today] += charge.images
        if charge.computed and limits.holds:
            mine.queued[charge.job_id] = now
        if charge.repeats:
            mine.once.add(charge.job_id)
        return answer()

    async def refund(self, key_id: str, limits: Limits, charge: Charge) -> None:
        mine = self._accounts[key_id]
        mine.queued.pop(charge.job_id, None)
        mine.running.pop(charge.job_id, None)
        mine.once.discard(charge.job_id)
        today = int(self._clock.now() // DAY_S)
        if limits.images_per_day is not None and today in mine.images:
            mine.images[today] -= charge.images

    async def held(self, key_id: str) -> Sequence[tuple[str, float]]:
        mine, now = self._accounts[key_id], self._clock.now()
        return [
            (job_id, now - since) for part in (mine.queued, mine.running) for job_id, since in part.items()
        ]

    async def settle(
        self, key_id: str, ended: Sequence[str], running: Sequence[str], queued: Sequence[str]
    ) -> None:
        mine = self._accounts[key_id]
        for job_id in ended:
            mine.queued.pop(job_id, None)
            mine.running.pop(job_id, None)
        for ids, source, target in (
            (running, mine.queued, mine.running),
            (queued, mine.running, mine.queued),
        ):
            for job_id in ids:
                if job_id in source:
                    target[job_id] = source.pop(job_id)


def interval_s(limits: Limits) -> float:
    """Seconds between requests at the limit's rate; 0: no limit."""
    return 0.0 if limits.requests_per_minute is None else 60.0 / limits.requests_per_minute


@cache
def _source(name: str) -> str:
    return (files("cache") / "lua" / f"{name}.lua").read_text()


def account_prefix(key_id: str) -> str:
    """The prefix of the keys of an account."""
    return f"darkroom:{{quota:{key_id}}}:"


def _flag(value: bool) -> str:
    return "1" if value else "0"


def _or_none(limit: int | None) -> int:
    return -1 if limit is None else limit
