"""The stores on one Redis and on a cluster, with a way to move their clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from backends.redis_client import connect
from cli.services.redis import RedisServer
from contracts.jobs import Change
from contracts.ports.job_events import JobEvents
from contracts.settings import BackendSettings
from store.stores import Stores, open_stores
from tests.backends.servers import ClusterServers
from tests.stores import lapse, skew


@asynccontextmanager
async def watching(events: JobEvents, job_id: str) -> AsyncIterator[AsyncIterator[Change]]:
    """The changes of a job from now on; they end when nothing more will be heard."""
    heard: asyncio.Queue[Change | None] = asyncio.Queue()

    async def changes() -> AsyncIterator[Change]:
        while (change := await heard.get()) is not None:
            yield change

    async with events.subscribe(job_id, heard.put_nowait):
        yield changes()


@dataclass(frozen=True)
class World:
    """Stores under test and their clock. `advance` moves the clock of the scripts; `set_clock` all of the server's, which by its
    clock ends what has a time to live."""

    stores: Stores
    advance: Callable[[float], None]
    set_clock: Callable[[float], None]
    settings: BackendSettings


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    """A real Redis Cluster of three for the whole run."""
    servers = ClusterServers(tmp_path_factory.mktemp("cluster"))
    servers.start()
    yield servers
    servers.stop()


@pytest.fixture(params=["redis", "cluster"])
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
    client = connect(url, 2.0)
    await client.flushall()
    await client.aclose()
    stores = open_stores(settings)

    def set_server(seconds: float) -> None:
        skew(stores, seconds)
        lapse(url, seconds)

    yield World(stores, partial(skew, stores), set_server, settings)
    await stores.close()
