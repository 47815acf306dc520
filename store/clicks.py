"""Clicks on the hits of searches, in Redis. The bounds hold for each tenant by itself."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import Redis

from backends.redis_client import store_errors

RETENTION_S: Final = 30 * 86_400.0
"""How long the clicks of a query count, from the last one on."""
MAX_CLICKS: Final = 10_000
"""Clicks of a tenant that count on one day."""
MAX_QUERIES: Final = 10_000
"""Queries of a tenant with clicks. One more forgets the one that was clicked on longest ago."""
MAX_IMAGES: Final = 100
"""Images with clicks of one query."""
WHAT: Final = "click store"


class RedisClickStore:
    """The `ClickStore` on Redis. A query's clicks expire `RETENTION_S` seconds after the last one."""

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def add(self, tenant: str, query: str, image: str, holder: str, now: float) -> bool:
        """Count a click, once a day for each holder, query and image. Answers whether it counted."""
        digest = query_digest(query)
        click = _digest(holder, digest, image)
        day = time.strftime("%Y-%m-%d", time.gmtime(now))
        arguments: list[str | float] = [now, day, click, digest, image, RETENTION_S]
        arguments += [MAX_CLICKS, MAX_QUERIES, MAX_IMAGES]
        async with store_errors(WHAT, self._timeout_s):
            counted: Any = await self._client.register_script(_source())(
                keys=[clicks_prefix(tenant)], args=arguments
            )
        return bool(counted)

    async def counts(self, tenant: str, query: str) -> Mapping[str, int]:
        """The clicks on each image, for searches with the same words."""
        async with store_errors(WHAT, self._timeout_s):
            counts: Any = await self._client.hgetall(f"{clicks_prefix(tenant)}counts:{query_digest(query)}")
        return {image: int(count) for image, count in counts.items()}


def clicks_prefix(tenant: str) -> str:
    """The prefix of the keys of a tenant's clicks, on one node of a cluster."""
    return f"darkroom:{{clicks:{tenant}}}:"


def query_digest(query: str) -> str:
    """What queries with the same words have in common. Case and white space do not count."""
    return _digest(" ".join(query.casefold().split()))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]


@cache
def _source() -> str:
    return (files("store") / "lua" / "search_click.lua").read_text()
