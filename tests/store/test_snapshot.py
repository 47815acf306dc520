"""A snapshot through a connection is all that a server holds, in every form that its file may give a value; and fills another."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from backends.redis_client import connect, disconnect
from cli.services.redis import RedisServer
from contracts.errors import StoreUnavailable
from store.packed import RdbError
from store.rdb import Entry, RdbFile
from store.restoring import UNFINISHED, fill, holds_state, wipe
from store.snapshot import SnapshotRefused, connections, database_of, download, from_line, ours, to_line
from tests.backends.servers import ClusterServers, SentinelServers

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

P = "darkroom:{s0}:"
FAR_MS = 4_102_444_800_000
LENGTHS = (0, 1, 63, 64, 127, 128, 4095, 4096, 16_377, 16_378, 16_379, 16_380, 16_383, 70_000)
"""Around every border of the encodings."""
NUMBERS = [
    sign * (2**power + more)
    for power in (0, 6, 7, 12, 13, 15, 16, 23, 31, 62)
    for more in (-1, 0, 1)
    for sign in (1, -1)
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    one = RedisServer(tmp_path / "one")
    one.start()
    yield one
    one.stop()


def everything(client: Any) -> dict[str, tuple[Any, int]]:
    """All keys, with what a client reads of each and when it ends."""
    found: dict[str, tuple[Any, int]] = {}
    for raw in client.scan_iter("darkroom:*", count=1000):
        key = raw.decode()
        read: dict[bytes, Any] = {
            b"string": lambda name: client.get(name),
            b"list": lambda name: client.lrange(name, 0, -1),
            b"set": lambda name: client.smembers(name),
            b"zset": lambda name: client.zrange(name, 0, -1, withscores=True),
            b"hash": lambda name: client.hgetall(name),
        }
        found[key] = (read[client.type(raw)](raw), client.pexpiretime(raw))
    return found


def write_all_forms(client: Any) -> None:
    rng = random.Random(20)
    texts = [rng.randbytes(length) for length in LENGTHS]
    texts += [(b"a red apple, " * 6000)[:length] for length in LENGTHS]
    numbers = [str(number).encode() for number in NUMBERS]
    for index, text in enumerate((*texts, *numbers, b"007", b"-0", b"1e3")):
        client.set(f"{P}string:{index}", text)
    values = list(dict.fromkeys((*texts, *numbers)))
    for small in (True, False):
        chosen = [value for value in values if len(value) < 60] if small else values
        client.rpush(f"{P}list:{small}", *chosen)
        client.sadd(f"{P}set:{small}", *chosen)
        client.hset(f"{P}hash:{small}", mapping={value: chosen[-1 - at] for at, value in enumerate(chosen)})
        scores = [0.1, 1e300, -1e-300, 3.0, float("inf"), float("-inf"), 1764463791.123456]
        client.zadd(f"{P}zset:{small}", {value: scores[at % 7] for at, value in enumerate(chosen)})
    client.rpush(f"{P}list:many", *range(20_000))
    for bits in (15, 31, 63):
        client.sadd(f"{P}numbers:{bits}", *(number for number in NUMBERS if abs(number) < 2 ** (bits - 1)))
    client.hset(f"{P}hash:borders", mapping=dict.fromkeys(texts, b"x"))
    for index in range(40):
        client.pexpireat(f"{P}string:{index}", FAR_MS + index)
    client.set("another's", "key")


async def taken(url: str, folder: Path) -> list[Entry]:
    client = connect(url, 2.0)
    found: list[Entry] = []
    try:
        for number, connection in enumerate(await connections(client, 2.0)):
            with (folder / f"{number}.rdb").open("w+b") as file:
                await download(connection, file, 2.0, lambda _: None)
                file.seek(0)
                found += ours(RdbFile(file), database_of(client))
    finally:
        await disconnect(client)
    return found


async def filled(url: str, entries: list[Entry]) -> int:
    client = connect(url, 2.0)
    try:
        lines = [from_line(to_line(entry)) for entry in entries]
        return await fill(client, lines, 0, 2.0, lambda _: None)
    finally:
        await disconnect(client)


@pytest.mark.parametrize("diskless", ["yes", "no"])
async def test_every_value_comes_back(
    anyio_backend: str, server: RedisServer, redis_server: RedisServer, tmp_path: Path, diskless: str
) -> None:
    with redis.Redis(port=server.port, db=3) as client:
        client.config_set("repl-diskless-sync", diskless)
        client.config_set("repl-diskless-sync-delay", "0")
        client.config_set("hash-max-listpack-entries", "2000")
        client.config_set("hash-max-listpack-value", "100000")
        write_all_forms(client)
        with redis.Redis(port=server.port, db=0) as elsewhere:
            elsewhere.set(f"{P}of another database", "x")
        before = everything(client)
    entries = await taken(f"redis://127.0.0.1:{server.port}/3", tmp_path)
    assert {entry.key.decode() for entry in entries} == set(before)
    url = redis_server.url.replace("/0", "/6")
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        assert await filled(url, entries) == len(before)
        assert everything(client) == before
        client.flushdb()


async def test_a_snapshot_is_one_moment(anyio_backend: str, server: RedisServer, tmp_path: Path) -> None:
    """Two keys that only ever change together are never seen apart, however large the server is."""
    stop = asyncio.Event()

    async def write() -> None:
        client = connect(server.url, 5.0)
        number = 0
        while not stop.is_set():
            number += 1
            async with client.pipeline(transaction=True) as pipeline:
                pipeline.set("darkroom:a", number)
                pipeline.set("darkroom:z", number)
                await pipeline.execute()
        await disconnect(client)

    with redis.Redis(port=server.port) as client:
        client.config_set("repl-diskless-sync-delay", "0")
        client.mset({f"darkroom:{number}": "x" * 100 for number in range(20_000)})
    writing = asyncio.create_task(write())
    for _ in range(5):
        found = {entry.key: entry.values for entry in await taken(server.url, tmp_path)}
        assert found.get(b"darkroom:a") == found.get(b"darkroom:z")
        assert len(found) >= 20_000
    stop.set()
    await writing


async def test_what_has_lapsed_is_left_out(
    anyio_backend: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    url = redis_server.url.replace("/0", "/6")
    client = connect(url, 2.0)
    await client.flushdb()
    entries = [Entry(0, b"darkroom:%d" % at, "string", (b"x",), at) for at in (10, 20, 30)]
    assert not await holds_state(client, 2.0)
    assert await fill(client, entries, 29, 2.0, lambda _: None) == 1
    await client.set("another's", "x")
    await wipe(client, 2.0)
    assert await client.keys() == ["another's"]
    await client.flushdb()
    await disconnect(client)


async def test_a_cluster_is_wiped_too(anyio_backend: str, redis_cluster: ClusterServers) -> None:
    client = connect(redis_cluster.url, 2.0)
    await client.flushall()
    for number in range(50):
        await client.set(f"darkroom:{{s{number % 16:x}}}:job:{number}", "x")
    await wipe(client, 2.0)
    assert not await holds_state(client, 2.0)
    await disconnect(client)


async def test_a_restore_that_broke_off_is_seen(anyio_backend: str, server: RedisServer) -> None:
    def entries() -> Iterator[Entry]:
        for number in range(3000):
            if number == 2000:
                server.stop()
            yield Entry(0, b"darkroom:%d" % number, "string", (b"x",))

    client = connect(server.url, 0.5)
    with pytest.raises(StoreUnavailable):
        await fill(client, entries(), 0, 0.5, lambda _: None)
    server.start()
    assert await client.get(UNFINISHED) == "1"
    assert await holds_state(client, 2.0)
    await disconnect(client)


async def test_a_sentinels_master_is_asked(anyio_backend: str, tmp_path: Path) -> None:
    servers = SentinelServers(tmp_path / "servers")
    servers.start()
    try:
        with redis.Redis(port=servers.master.port) as client:
            client.config_set("repl-diskless-sync-delay", "0")
            client.set("darkroom:x", "1")
        assert [entry.key for entry in await taken(servers.url, tmp_path)] == [b"darkroom:x"]
    finally:
        servers.stop()


async def test_every_node_of_a_cluster_is_asked(anyio_backend: str, tmp_path: Path) -> None:
    servers = ClusterServers(tmp_path / "servers")
    servers.start()
    try:
        entries = [Entry(0, b"darkroom:{s%x}:x" % at, "hash", (b"a", b"1")) for at in range(16)]
        for server in servers.servers:
            with redis.Redis(port=server.port) as client:
                client.config_set("repl-diskless-sync-delay", "0")
        assert await filled(servers.url, entries) == 16
        assert sorted(entry.key for entry in await taken(servers.url, tmp_path)) == sorted(
            entry.key for entry in entries
        )
        client = connect(servers.url, 5.0)
        try:
            await wipe(client, 5.0)
        finally:
            await disconnect(client)
        for server in servers.servers:
            with redis.Redis(port=server.port) as client_of_one:
                assert client_of_one.dbsize() == 0, "wiped on every node"
    finally:
        servers.stop()


async def test_a_user_without_the_right_is_told_which(
    anyio_backend: str, server: RedisServer, tmp_path: Path
) -> None:
    url = f"redis://app:secret@127.0.0.1:{server.port}/0"
    with redis.Redis(port=server.port) as client:
        client.config_set("repl-diskless-sync-delay", "0")
        client.set("darkroom:x", "1")
        client.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-@dangerous")
        with pytest.raises(SnapshotRefused, match=r"\+sync \+replconf"):
            await taken(url, tmp_path)
        client.execute_command("ACL", "SETUSER", "app", "+sync", "+replconf")
        assert [entry.key for entry in await taken(url, tmp_path)] == [b"darkroom:x"]


async def test_a_damaged_snapshot_is_no_snapshot(
    anyio_backend: str, server: RedisServer, tmp_path: Path
) -> None:
    with redis.Redis(port=server.port) as client:
        client.config_set("repl-diskless-sync-delay", "0")
        client.hset("darkroom:h", mapping={"a": "1", "b": "text"})
        client.rpush("darkroom:l", *range(300))
    whole = list(await taken(server.url, tmp_path))
    data = (tmp_path / "0.rdb").read_bytes()
    for length in range(len(data) - 9):
        with pytest.raises(RdbError):
            list(RdbFile(io.BytesIO(data[:length])))
    rng = random.Random(1)
    for _ in range(3000):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        # Either it is noticed, or what was changed was a text: nothing else may be raised, and nothing hangs.
        try:
            found = list(RdbFile(io.BytesIO(bytes(damaged))))
        except RdbError:
            continue
        assert len(found) <= len(whole)
    with redis.Redis(port=server.port) as client:
        client.xadd("darkroom:stream", {"a": "1"})
    with pytest.raises(RdbError, match="unknown kind"):
        await taken(server.url, tmp_path)
