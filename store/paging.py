"""Keys of one kind over all shards, page by page, with a cursor that another process can go on from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis, RedisCluster

from store.key_names import Layout


async def page_of_keys(
    client: Redis, layout: Layout, cursor: str, kind: str, count: int
) -> tuple[str, list[str]]:
    """A page of the keys `<shard>:<kind>:*`, and the cursor of the next one; empty: there is none.

    An empty `cursor` begins. `count` is SCAN's hint of the page size. A key that is there from the first
    to the last call is answered at least once, as long as the server is not started anew. Raises `ValueError` for a
    cursor that no call has answered, and redis-py's errors.
    """
    shard, place = _place(cursor or f"{layout.names[0]}:0", layout.names)
    prefix = layout.prefix(shard)
    several: Any = client
    options: dict[str, Any] = {}
    if isinstance(several, RedisCluster):
        await several.initialize()
        options["target_nodes"] = several.get_node_from_key(prefix)
    answer, keys = await several.scan(place, match=f"{prefix}{kind}:*", count=count, **options)
    following = int(next(iter(answer.values())) if isinstance(answer, dict) else answer)
    return _next(layout, shard, following), [str(key) for key in keys]


def _next(layout: Layout, shard: str, place: int) -> str:
    if place:
        return f"{shard}:{place}"
    following = layout.names.index(shard) + 1
    return f"{layout.names[following]}:0" if following < layout.number else ""


def _place(cursor: str, shards: Sequence[str]) -> tuple[str, int]:
    shard, _, place = cursor.partition(":")
    if len(shard) != 1 or shard not in shards or not place.isdigit():
        raise ValueError("this cursor belongs to no scan of this store")
    return shard, int(place)
