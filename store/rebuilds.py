"""How far the rebuild of each search index has come, in Redis: a rebuild that was interrupted goes on."""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError
from redis.asyncio import Redis

from backends.redis_client import store_errors
from contracts.search import Rebuild
from store.key_names import PREFIX

REBUILD_PREFIX: Final = f"{PREFIX}search-rebuild:"


class RedisRebuildStore:
    """The `RebuildStore` on Redis."""

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def get(self, index: str) -> Rebuild | None:
        """The last rebuild; None: there was none, or its document is damaged."""
        async with store_errors("search store", self._timeout_s):
            text = await self._client.get(REBUILD_PREFIX + index)
        try:
            return None if text is None else Rebuild.model_validate_json(text)
        except ValidationError:
            return None

    async def put(self, index: str, rebuild: Rebuild) -> None:
        """Record how far it has come."""
        async with store_errors("search store", self._timeout_s):
            await self._client.set(REBUILD_PREFIX + index, rebuild.model_dump_json())
