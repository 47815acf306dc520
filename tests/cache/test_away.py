"""A Redis that is away, hangs or restarts: clear errors in bounded time, and recovery by itself."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache.stores import Stores, open_stores
from cli.services.redis import RedisServer
from contracts.errors import StoreUnavailable
from contracts.jobs import JobStatus
from contracts.settings import BackendSettings
from tests.cache.conftest import watching
from tests.cache.made import KEY, led, new, result

pytestmark = pytest.mark.anyio


@pytest.fixture
async def own(anyio_backend: str, tmp_path: Path) -> AsyncIterator[tuple[RedisServer, Stores]]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    stores = open_stores(
        BackendSettings(redis_url=server.url, blob_dir=tmp_path / "blobs", redis_timeout_s=0.5)
    )
    yield server, stores
    await stores.close()
    server.send(signal.SIGCONT)
    server.stop()


async def test_every_call_fails_clearly_while_the_server_is_away(own: tuple[RedisServer, Stores]) -> None:
    server, stores = own
    await stores.check()
    message = (await stores.jobs.submit(new())).job.message()
    server.stop()
    for call in (
        stores.check(),
        stores.jobs.submit(new()),
        stores.jobs.get("public", message.job_id),
        stores.jobs.list("public", 5),
        stores.jobs.claim(message, "w"),
        stores.jobs.waiting("m", [message.job_id]),
        stores.jobs.leaders([message.key]),
        stores.jobs.sweep("a", 5),
        stores.results.get(KEY),
        stores.results.put(KEY, result()),
        stores.models.models(),
    ):
        with pytest.raises(StoreUnavailable, match="did not answer"):
            await call
    with pytest.raises(StoreUnavailable):
        async with watching(stores.events, message.job_id):
            raise AssertionError


async def test_a_server_that_hangs_is_given_up_in_time(own: tuple[RedisServer, Stores]) -> None:
    server, stores = own
    await stores.check()
    server.send(signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await stores.jobs.submit(new())
    assert time.monotonic() - begun < 10.0
    server.send(signal.SIGCONT)
    await stores.check()


async def test_records_survive_a_kill_and_the_store_recovers_by_itself(
    own: tuple[RedisServer, Stores],
) -> None:
    server, stores = own
    lease = await led(stores.jobs, new())
    async with watching(stores.events, lease.job_id) as statuses:
        await asyncio.sleep(1.2)  # the append-only file is synced every second
        server.send(signal.SIGKILL)
        async with asyncio.timeout(5):
            assert [status async for status in statuses] == [], (
                "a watcher is let go when events may be missed"
            )
    server.start()
    assert (await stores.jobs.get("public", lease.job_id)).status is JobStatus.RUNNING
    async with watching(stores.events, lease.job_id) as statuses:
        assert (await stores.jobs.succeed(lease, result())).applied
        async with asyncio.timeout(5):
            assert await anext(statuses) is JobStatus.SUCCEEDED
