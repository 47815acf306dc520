"""Both implementations of the stores, each with a way to move its clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cache.connection import connect, pages
from cache.jobs import RedisJobStore
from cache.memory import memory_stores
from cache.quotas import RedisQuotaLedger
from cache.stores import Stores, open_stores
from cache.webhooks import RedisWebhookStore
from cli.services.redis import RedisServer
from contracts.clock import ManualClock
from contracts.jobs import Change
from contracts.ports import JobEvents
from contracts.settings import BackendSettings
from tests.cache.servers import ClusterServers


@asynccontextmanager
async def watching(events: JobEvents, job_id: str) -> AsyncIterator[AsyncIterator[Change]]:
    """The changes of a job from now on; they end when nothing more will be heard."""
    heard: asyncio.Queue[Change | None] = asyncio.Queue()

    async def changes() -> AsyncIterator[Change]:
        while (change := await heard.get()) is not None:
            yield change

    async with events.hear(job_id, heard.put_nowait):
        yield changes()


@dataclass(frozen=True)
class World:
    """Stores under test and their clock; `real` tells whether they are on a server. `advance` moves the clock of the scripts;
    `set_clock` all of the server's, which by its clock ends what has a time to live."""

    stores: Stores
    advance: Callable[[float], None]
    set_clock: Callable[[float], Awaitable[None]]
    settings: BackendSettings
    real: bool


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    """A real Redis Cluster of three for the whole run."""
    servers = ClusterServers(tmp_path_factory.mktemp("cluster"))
    servers.start()
    yield servers
    servers.stop()


@pytest.fixture(params=["redis", "memory", "cluster"])
async def world(
    request: pytest.FixtureRequest, anyio_backend: str, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[World]:
    url = redis_server.url
    if request.param == "cluster":
        url = request.getfixturevalue("redis_cluster").url
    # A thousand calls at once must not end the patience, on a busy machine and a slow client either.
    settings = BackendSettings(
        redis_url=url, blob_dir=tmp_path / "blobs", job_retention_s=10_000, redis_timeout_s=20.0
    )
    if request.param == "memory":
        clock = ManualClock()

        async def set_manual(seconds: float) -> None:
            clock.advance(seconds)

        yield World(memory_stores(settings, clock), clock.advance, set_manual, settings, real=False)
        return
    client = connect(url, 2.0)
    await client.flushall()
    await client.aclose()
    stores = open_stores(settings)
    jobs, quotas, webhooks = stores.jobs, stores.quotas, stores.webhooks
    assert isinstance(jobs, RedisJobStore)
    assert isinstance(quotas, RedisQuotaLedger)
    assert isinstance(webhooks, RedisWebhookStore)

    def advance(seconds: float) -> None:
        jobs.skew_s += seconds
        quotas.skew_s += seconds
        webhooks.skew_s += seconds

    async def set_server(seconds: float) -> None:
        advance(seconds)
        client = connect(url, settings.redis_timeout_s)
        async for names in pages(client, "store", settings.redis_timeout_s, "darkroom:*", 100):
            for name in names:
                if (left_ms := await client.pttl(name)) > 0:
                    await client.pexpire(name, left_ms - round(seconds * 1000))
        await client.aclose()

    yield World(stores, advance, set_server, settings, real=True)
    await stores.close()
