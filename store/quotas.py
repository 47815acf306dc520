"""Accounts of API keys: request rate, live jobs and images of the day. Each charge is one Lua
script on the key's slot in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import Redis

from backends.redis_client import store_errors
from contracts.tenancy import Account, Charge, Limits

LEFT_BEHIND_S: Final = 60.0
"""A job that is still counted this long after its deadline was left behind by a crash."""


class RedisQuotaLedger:
    """The `QuotaLedger` on a Redis server. `skew_s` shifts its clock by seconds; for tests only."""

    def __init__(self, client: Redis, job_ttl_s: float, timeout_s: float) -> None:
        self._client = client
        self._hold_s = job_ttl_s + LEFT_BEHIND_S
        self._timeout_s = timeout_s
        self.skew_s = 0.0

    async def admit(
        self, key_id: str, limits: Limits, charge: Charge, *, charge_rate: bool = True
    ) -> Account:
        """Charge the job to the key, or answer which limit refuses it. Raises
        `StoreUnavailable`."""
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

    async def refund(
        self, key_id: str, limits: Limits, charge: Charge, *, charged_at: float | None = None
    ) -> None:
        """Take back the charge of a job, except for the rate; with `charged_at` once. Raises
        `StoreUnavailable`."""
        counted = _flag(limits.images_per_day is not None)
        at = "" if charged_at is None else charged_at
        await self._run("quota_refund", key_id, self.skew_s, charge.job_id, charge.images, counted, at)

    async def held(self, key_id: str) -> Sequence[tuple[str, float]]:
        """The jobs that the account counts as live, and how many seconds ago each was admitted.
        Raises `StoreUnavailable`."""
        async with (
            store_errors("quota ledger", self._timeout_s),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            for name in ("queued", "running"):
                pipeline.zrange(f"{account_prefix(key_id)}{name}", 0, -1, withscores=True)
            parts = await pipeline.execute()
            # By a script, so that a cluster answers with the time of the node that holds the key.
            seconds, microseconds = await self._client.eval(
                "return redis.call('TIME')", 1, account_prefix(key_id)
            )
        now = float(seconds) + float(microseconds) / 1e6 + self.skew_s
        return [(job_id, now - admitted_at) for part in parts for job_id, admitted_at in part]

    async def settle(
        self, key_id: str, ended: Sequence[str], running: Sequence[str], queued: Sequence[str]
    ) -> None:
        """Remove ended jobs from the account, and note which of the others run. Raises
        `StoreUnavailable`."""
        counts = (len(ended), len(running))
        await self._run("quota_settle", key_id, self._hold_s, *counts, *ended, *running, *queued)

    async def _run(self, name: str, key_id: str, *arguments: str | float) -> Any:
        async with store_errors("quota ledger", self._timeout_s):
            return await self._client.register_script(_source(name))(
                keys=[account_prefix(key_id)], args=arguments
            )


def interval_s(limits: Limits) -> float:
    """Seconds between requests at the rate limit; 0: no limit."""
    return 0.0 if limits.requests_per_minute is None else 60.0 / limits.requests_per_minute


@cache
def _source(name: str) -> str:
    return (files("store") / "lua" / f"{name}.lua").read_text()


def account_prefix(key_id: str) -> str:
    """The prefix of the keys of an account."""
    return f"darkroom:{{quota:{key_id}}}:"


def _flag(value: bool) -> str:
    return "1" if value else "0"


def _or_none(limit: int | None) -> int:
    return -1 if limit is None else limit
