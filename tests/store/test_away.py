"""A Redis that is away, hangs or restarts: clear errors in bounded time, and recovery by itself."""

from __future__ import annotations

import asyncio
import signal
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from backends.redis_client import connect, disconnect
from cli.services.redis import RedisServer
from contracts.errors import StoreUnavailable
from contracts.jobs import JobEnd, JobStatus
from contracts.settings import BackendSettings
from store.stores import Stores, open_stores
from tests.faults.proxy import Proxy
from tests.store.conftest import watching
from tests.store.made import KEY, led, new, result

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
            end = await anext(statuses)
    assert isinstance(end, JobEnd)
    assert (end.status, end.result) == (JobStatus.SUCCEEDED, result())


async def test_connections_that_were_reset_while_they_lay_idle_are_nobodys_trouble(
    own: tuple[RedisServer, Stores],
) -> None:
    proxy = Proxy(own[0].port)
    proxy.start()
    client = connect(f"redis://127.0.0.1:{proxy.port}/0", timeout_s=5.0)
    try:
        for number in range(3):
            await asyncio.gather(*(client.set(f"{number}-{each}", each) for each in range(5)))
            proxy.cut()
            await asyncio.sleep(0.05)
            assert await client.get(f"{number}-4") == "4"
    finally:
        await disconnect(client)
        proxy.stop()


@asynccontextmanager
async def behind_tls(port: int, authority: trustme.CA) -> AsyncIterator[int]:
    """The port at which what listens on `port` is reached by TLS."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as proxy:
        yield proxy.sockets[0].getsockname()[1]


async def test_a_server_that_is_reached_by_tls_and_hangs(
    own: tuple[RedisServer, Stores], tmp_path: Path
) -> None:
    server, _ = own
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with behind_tls(server.port, authority) as port:
        address = f"rediss://localhost:{port}/0"
        client = connect(f"{address}?ssl_ca_certs={tmp_path / 'ca.pem'}", timeout_s=0.5)
        stranger = connect(address, timeout_s=0.5)
        try:
            await client.set("a", "b")
            assert await client.get("a") == "b"
            with pytest.raises(RedisConnectionError, match="certificate verify failed"):
                await stranger.get("a")
            server.send(signal.SIGSTOP)
            begun = time.monotonic()
            with pytest.raises(RedisTimeoutError, match="within"):
                await client.get("a")
            assert 0.4 < time.monotonic() - begun < 3.0
            server.send(signal.SIGCONT)
            assert await client.get("a") == "b"
        finally:
            await disconnect(client)
            await disconnect(stranger)
