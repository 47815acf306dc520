"""Usage by tenant in Redis: one hash for each UTC day, with fields `<measure>:<tenant>`."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from backends.redis_client import store_errors
from contracts.usage import KEEP_DAYS, MEASURES, Counts

DAY_S = 86_400


class RedisUsageStore:
    """The `UsageStore` on a Redis server."""

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def add(self, day: str, counts: Counts) -> None:
        """Add the counts to those of the day. Raises `StoreUnavailable`, `StoreFull`."""
        key = usage_key(day)
        async with (
            store_errors("usage", self._timeout_s),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            for (tenant, measure), count in counts.items():
                pipeline.hincrby(key, f"{measure}:{tenant}", count)
            pipeline.expire(key, KEEP_DAYS * DAY_S)
            await pipeline.execute()

    async def of(self, day: str) -> Counts:
        """The counts of the day. Raises `StoreUnavailable`."""
        async with store_errors("usage", self._timeout_s):
            fields: Any = await self._client.hgetall(usage_key(day))
        counts: dict[tuple[str, str], int] = {}
        for field, count in fields.items():
            measure, _, tenant = field.partition(":")
            # A newer version may count more.
            if measure in MEASURES and tenant:
                counts[tenant, measure] = int(count)
        return counts


def usage_key(day: str) -> str:
    """The Redis key of a day such as `2026-11-30`."""
    return f"darkroom:{{usage}}:{day}"
