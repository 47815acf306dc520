"""Results by prompt-hash key, in a Redis that may evict them."""

from __future__ import annotations

import math
from typing import Final

from pydantic import ValidationError
from redis.asyncio import Redis

from cache.connection import reaching
from contracts.jobs import JobResult

PREFIX: Final = "darkroom:result:"


class RedisResultCache:
    """The `ResultCache` on a Redis server."""

    def __init__(self, client: Redis, ttl_s: float, timeout_s: float) -> None:
        self._client = client
        self._ttl_ms = math.ceil(ttl_s * 1000)
        self._timeout_s = timeout_s

    async def get(self, key: str) -> JobResult | None:
        async with reaching("result cache", self._timeout_s):
            stored = await self._client.get(PREFIX + key)
        if stored is None:
            return None
        try:
            return JobResult.model_validate_json(stored)
        except ValidationError:
            # Written by another version, or damaged: a miss, and the new result takes its place.
            return None

    async def put(self, key: str, result: JobResult) -> None:
        async with reaching("result cache", self._timeout_s):
            await self._client.set(PREFIX + key, result.model_dump_json(), px=self._ttl_ms)

    async def delete(self, key: str) -> bool:
        async with reaching("result cache", self._timeout_s):
            return bool(await self._client.delete(PREFIX + key))
