"""Redis under a sentinel: the store follows the master. And URLs that name several servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from backends.redis_client import connect
from contracts.errors import SettingsError, StoreUnavailable
from contracts.settings import BackendSettings
from store.stores import open_stores
from tests.backends.servers import SentinelServers
from tests.store.made import new

pytestmark = pytest.mark.anyio


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[SentinelServers]:
    servers = SentinelServers(tmp_path)
    servers.start()
    yield servers
    servers.stop()


@pytest.mark.slow
async def test_the_store_follows_the_master(
    anyio_backend: str, sentinel: SentinelServers, tmp_path: Path
) -> None:
    stores = open_stores(
        BackendSettings(redis_url=sentinel.url, blob_dir=tmp_path / "blobs", redis_timeout_s=0.5)
    )
    kept = (await stores.jobs.submit(new())).job
    with redis.Redis(port=sentinel.master.port) as master:
        # Replication is asynchronous, and in order: where this write has come, so has what came before.
        master.set("waited", 1)
        assert master.wait(1, 20_000) == 1
    sentinel.master.stop()
    until = time.monotonic() + 20
    while True:
        try:
            later = (await stores.jobs.submit(new("b" * 64))).job
            break
        except StoreUnavailable:
            assert time.monotonic() < until, "the sentinel has promoted nobody"
            await asyncio.sleep(0.1)
    assert (await stores.jobs.get("public", kept.id)).id == kept.id
    assert (await stores.jobs.get("public", later.id)).id == later.id
    await stores.close()


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://h:1", "redis+sentinel://h/name", "redis+cluster://h:1,h", "redis+cluster://:x"],
)
async def test_a_url_that_names_no_servers_says_so(anyio_backend: str, url: str) -> None:
    with pytest.raises(SettingsError, match="needs"):
        connect(url, 1.0)
