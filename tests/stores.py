"""Real stores for tests, on a private Redis, and a clock that a test moves for them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import redis
from redis.cluster import ClusterNode, RedisCluster

from cli.services.redis import RedisServer
from contracts.settings import BackendSettings
from runtime.clock import ManualClock
from store.jobs import RedisJobStore
from store.pictures import RedisPictureOutbox
from store.quotas import RedisQuotaLedger
from store.reviews import RedisReviewStore
from store.second_looks import RedisLookOutbox
from store.stores import Stores, open_stores
from store.webhooks import RedisWebhookStore

PATIENCE_S: Final = 20.0
"""With a store whose caller has a thousand things to do first, on a busy machine."""


def backend(server: RedisServer, folder: Path, database: int = 0) -> dict[str, Any]:
    """The settings of stores on one of the server's sixteen databases, their pictures in `folder`."""
    url = server.url.replace("/0", f"/{database}")
    return {"redis_url": url, "redis_timeout_s": PATIENCE_S, "blob_dir": folder}


@asynccontextmanager
async def opened_stores(server: RedisServer, folder: Path, **more: Any) -> AsyncIterator[Stores]:
    """Empty stores on the server, closed at the end."""
    empty(server)
    stores = open_stores(BackendSettings(**{**backend(server, folder), **more}))
    try:
        yield stores
    finally:
        await stores.close()


def empty(server: RedisServer) -> None:
    """Forget all that the server holds, in all its databases."""
    with redis.Redis(port=server.port) as client:
        client.flushall()


class StoreClock(ManualClock):
    """A clock for the code under test that moves the stores' clock with it. The code's own stands still between moves; the
    server's runs on."""

    def __init__(self, stores: Stores, url: str) -> None:
        super().__init__(time.time())
        self._stores = stores
        self._url = url

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        skew(self._stores, seconds)
        lapse(self._url, seconds)


def skew(stores: Stores, seconds: float) -> None:
    """Move the clock that the scripts of the stores go by."""
    for each in (stores.jobs, stores.quotas, stores.webhooks, stores.pictures, stores.reviews, stores.looks):
        assert isinstance(
            each,
            RedisJobStore
            | RedisQuotaLedger
            | RedisWebhookStore
            | RedisPictureOutbox
            | RedisReviewStore
            | RedisLookOutbox,
        )
        each.skew_s += seconds


def lapse(url: str, seconds: float) -> None:
    """Let that much pass of every time to live on a server or cluster, as if its own clock had been moved."""
    with _client(url) as client:
        names = list(client.scan_iter("darkroom:*", count=1000))
        asked, moved = client.pipeline(transaction=False), client.pipeline(transaction=False)
        for name in names:
            asked.pttl(name)
        for name, left_ms in zip(names, asked.execute(), strict=True):
            if left_ms > 0:
                moved.pexpire(name, left_ms - round(seconds * 1000))
        moved.execute()


def _client(url: str) -> Any:
    parts = urlsplit(url)
    if parts.scheme == "redis+cluster":
        host, _, port = parts.netloc.split(",")[0].partition(":")
        node = ClusterNode(host, int(port))  # type: ignore[no-untyped-call]
        return RedisCluster(startup_nodes=[node])
    return redis.Redis.from_url(url)
