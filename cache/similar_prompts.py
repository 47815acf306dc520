"""The prompts whose results may answer others that mean the same: one list for each group of equal
parameters, in the Redis of the result cache.

A group is named like the addresses of its results (`cache.cache_key.parameter_group`). Where their
scope, model or revision is purged, the list goes with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError
from redis.asyncio import Redis

from backends.redis_client import pages, store_errors
from contracts.similar import SimilarPrompt

RESULT_PREFIX: Final = "darkroom:result:"
SIMILAR_PREFIX: Final = "darkroom:similar:"
MAX_PROMPTS: Final = 1_000
"""Prompts of one group. One more drops the oldest."""
WHAT: Final = "result cache"


class RedisSimilarPrompts:
    """The prompts of each group. They stay for `ttl_s` seconds, as their results do, unless Redis evicts them."""

    def __init__(self, client: Redis, ttl_s: float, timeout_s: float) -> None:
        self._client: Any = client
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s

    async def get(self, group: str, now: float) -> Sequence[SimilarPrompt]:
        """The prompts of the group, the newest first. `now` is in Unix seconds. Raises `StoreUnavailable`."""
        async with store_errors(WHAT, self._timeout_s):
            texts = await self._client.lrange(SIMILAR_PREFIX + group, 0, MAX_PROMPTS - 1)
        found = [prompt for prompt in map(_read, texts) if prompt is not None]
        return [prompt for prompt in found if prompt.at > now - self._ttl_s]

    async def with_results(self, addresses: Sequence[str]) -> set[str]:
        """Those of the addresses that have a result in the cache now. Raises `StoreUnavailable`."""
        if not addresses:
            return set()
        async with (
            store_errors(WHAT, self._timeout_s),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            for address in addresses:
                pipeline.exists(RESULT_PREFIX + address)
            there = await pipeline.execute()
        return {address for address, is_there in zip(addresses, there, strict=True) if is_there}

    async def add(self, group: str, prompt: SimilarPrompt) -> None:
        """Add a prompt to the group. Raises `StoreUnavailable`, `StoreFull`."""
        key = SIMILAR_PREFIX + group
        async with (
            store_errors(WHAT, self._timeout_s),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            pipeline.lpush(key, prompt.model_dump_json())
            pipeline.ltrim(key, 0, MAX_PROMPTS - 1)
            pipeline.pexpire(key, math.ceil(self._ttl_s * 1000))
            await pipeline.execute()

    async def forget(self, pattern: str, addresses: set[str]) -> int:
        """Remove the prompts of these addresses from all groups of the pattern. Answers how many.

        Raises `StoreUnavailable`.
        """
        removed = 0
        async for names in pages(self._client, WHAT, self._timeout_s, SIMILAR_PREFIX + pattern, 100):
            for name in names:
                async with store_errors(WHAT, self._timeout_s):
                    for text in await self._client.lrange(name, 0, -1):
                        prompt = _read(text)
                        if prompt is None or prompt.address in addresses:
                            removed += int(await self._client.lrem(name, 0, text))
        return removed


def _read(text: str) -> SimilarPrompt | None:
    """The prompt of a stored text; None: another version wrote it, or it is damaged."""
    try:
        return SimilarPrompt.model_validate_json(text)
    except ValidationError:
        return None
