"""An empty store on one Redis and on a cluster, opened with so many shards, and what it holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from backends.redis_client import connect, disconnect, pages
from cli.services.redis import RedisServer
from contracts.settings import BackendSettings
from store.key_names import PREFIX
from store.layout import LAYOUT_KEY
from store.stores import Stores, open_stores
from tests.backends.servers import ClusterServers

TIMEOUT_S = 20.0
BEFORE = 16
"""Shards of a store that says nothing of its layout."""


@pytest.fixture(params=["redis", "cluster"])
async def url(request: pytest.FixtureRequest, anyio_backend: str, redis_server: RedisServer) -> str:
    if request.param == "redis":
        found = redis_server.url
    else:
        servers: ClusterServers = request.getfixturevalue("redis_cluster")
        found = servers.url
    client = connect(found, TIMEOUT_S)
    await client.flushall()
    await disconnect(client)
    return found


@pytest.fixture
async def client(url: str) -> AsyncIterator[Redis]:
    opened = connect(url, TIMEOUT_S)
    yield opened
    await disconnect(opened)


@pytest.fixture
async def opened(url: str, tmp_path: Path) -> AsyncIterator[Callable[[int], Stores]]:
    """Opens stores of so many shards."""
    made: list[Stores] = []

    def one(shards: int) -> Stores:
        made.append(
            open_stores(
                BackendSettings(
                    redis_url=url,
                    blob_dir=tmp_path,
                    store_shards=shards,
                    redis_timeout_s=TIMEOUT_S,
                    max_attempts=2,
                )
            )
        )
        return made[-1]

    yield one
    for each in made:
        await each.close()


async def contents(client: Redis) -> dict[str, Any]:
    """What the store holds of jobs: each key with its value and whether it ends; the counters of all shards together."""
    found: dict[str, Any] = {}
    totals: dict[str, int] = {}
    async for names in pages(client, "store", TIMEOUT_S, f"{PREFIX}*", 100):
        for name in names:
            kind = str(await client.type(name))
            if name.endswith("}:counts"):
                counted: dict[Any, Any] = await client.hgetall(name)
                for field, number in counted.items():
                    totals[field] = totals.get(field, 0) + int(number)
                continue
            if name.endswith("}:mark") or name == LAYOUT_KEY:
                continue
            read: Any = {
                "hash": client.hgetall,
                "string": client.get,
                "list": lambda key: client.lrange(key, 0, -1),
                "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
            }[kind]
            found[name] = (await read(name), await client.pttl(name) > 0)
    return found | {"counts": totals}


def settings_of(url: str, shards: int | None) -> BackendSettings:
    return BackendSettings(redis_url=url, store_shards=shards, redis_timeout_s=TIMEOUT_S)
