"""Refunds in Redis. `lua/end.lua` owes them together with the end of a blocked job; an account lies in another slot of a
cluster, so another step pays."""

from __future__ import annotations

from typing import Final

from redis.asyncio import Redis

from contracts.ports.quota_ledger import QuotaLedger
from contracts.settings import BackendSettings
from contracts.tenancy import Charge, Limits
from store.key_names import Layout
from store.layout import LayoutGuard

WHAT: Final = "refunds"
OWED: Final = "refunds"
"""A sorted set of each shard, by time. A member is key id, images, time of the charge, and job id."""


class RedisRefunds:
    """The `Refunds` on one Redis server or cluster."""

    def __init__(
        self, client: Redis, settings: BackendSettings, guard: LayoutGuard, quotas: QuotaLedger
    ) -> None:
        self._client = client
        self._layout = Layout(settings.shards)
        self._guard = guard
        self._quotas = quotas

    async def pay(self, limit: int) -> int:
        """Give back what is owed. The account notes it, so that a refund whose process died is not paid twice."""
        prefixes = self._layout.prefixes
        async with self._guard.store_errors(WHAT), self._client.pipeline(transaction=False) as pipeline:
            for prefix in prefixes:
                pipeline.zrange(f"{prefix}{OWED}", 0, limit - 1)
            pages = await pipeline.execute()
        paid = 0
        for prefix, members in zip(prefixes, pages, strict=True):
            for member in members:
                key_id, images, charged_at, job_id = member.split(" ")
                charge = Charge(job_id, int(images), computed=True)
                limits = Limits(images_per_day=charge.images)
                await self._quotas.refund(key_id, limits, charge, charged_at=float(charged_at))
                async with self._guard.store_errors(WHAT):
                    await self._client.zrem(f"{prefix}{OWED}", member)
                paid += 1
        return paid
