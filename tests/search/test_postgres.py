"""The index on PostgreSQL: which databases it refuses, and what it says when the server is away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from contracts.errors import StoreUnavailable
from search.index import VectorsMissing
from search.postgres import PostgresIndex
from tests.search.engines import TIMEOUT_S
from tests.search.made import CLIP, DIMENSIONS, name_of, record, vector
from tests.search.servers import SERVERS_OF_TESTS, PostgresServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path)
    server.start()
    yield server
    server.stop()


async def test_a_database_without_pgvector_is_refused_with_what_to_do(server: PostgresServer) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE plain")
        connection.execute("CREATE USER nobody_special")
        connection.execute("GRANT ALL ON DATABASE plain TO nobody_special")
    url = server.url("plain")
    limited = PostgresIndex(url.replace("postgres@", "nobody_special@"), TIMEOUT_S, 4)
    with pytest.raises(VectorsMissing, match=r"pgvector.*none"):
        await limited.open(CLIP, DIMENSIONS)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
    await limited.open(CLIP, DIMENSIONS)  # the rest it may make itself
    await limited.put([record(1)])
    assert await limited.count() == 1
    await limited.close()


async def test_the_index_outlives_a_server_that_is_stopped(server: PostgresServer) -> None:
    index = PostgresIndex(server.url(), 3.0, 4)
    await index.open(CLIP, DIMENSIONS)
    await index.put([record(number) for number in range(20)])
    server.stop()
    with pytest.raises(StoreUnavailable):
        await index.nearest(["a"], vector(1), 5)
    server.start()
    async with asyncio.timeout(60):
        while True:
            try:
                found = await index.nearest(["a"], vector(1), 100)
                break
            except StoreUnavailable:
                await asyncio.sleep(0.1)
    assert len(found) == 20
    await index.close()


async def test_a_server_that_is_away_is_a_store_away() -> None:
    with pytest.raises(StoreUnavailable):
        await PostgresIndex("postgresql://postgres@127.0.0.1:1/postgres", 2.0, 4).open(CLIP, DIMENSIONS)


async def test_two_processes_open_and_fill_one_index_at_once(tmp_path: Path) -> None:
    url = SERVERS_OF_TESTS.postgres().url()
    first, second = (PostgresIndex(url, TIMEOUT_S, 4) for _ in range(2))
    await first.open(CLIP, DIMENSIONS, fresh=True)
    await first.close()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA darkroom_search CASCADE")
    await asyncio.gather(first.open(CLIP, DIMENSIONS), second.open(CLIP, DIMENSIONS))
    records = [record(number) for number in range(60)]
    await asyncio.gather(*(each.put(records[::way]) for each in (first, second) for way in (1, -1)))
    assert await first.count() == await second.count() == 60
    assert sum(await asyncio.gather(*(each.expire(1e9, 40) for each in (first, second)))) == 60
    assert await first.get("a", name_of(1)) is None
    await first.close()
    await second.close()
