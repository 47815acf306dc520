"""The engines that the contract suite runs on, each as a way to make indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from search.embedded import EmbeddedIndex
from search.index import PictureIndex
from search.postgres import PostgresIndex
from search.redis_index import RedisIndex
from tests.search.servers import SERVERS_OF_TESTS, redis_8

TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class Engine:
    """`make`: an index in this folder or on this engine's server, not yet open. `slack`: how far a similarity may be off."""

    name: str
    make: Callable[[Path], PictureIndex]
    slack: float = 2e-3


def embedded(folder: Path) -> PictureIndex:
    return EmbeddedIndex(folder / "index", exact_below=1000)


def graph(folder: Path) -> PictureIndex:
    """With a graph from the fourth picture on."""
    return EmbeddedIndex(folder / "index", exact_below=4)


def on_redis(_: Path) -> PictureIndex:
    return RedisIndex(SERVERS_OF_TESTS.redis().url, TIMEOUT_S, 16)


def on_cluster(_: Path) -> PictureIndex:
    return RedisIndex(SERVERS_OF_TESTS.cluster().url, TIMEOUT_S, 16)


def on_postgres(_: Path) -> PictureIndex:
    return PostgresIndex(SERVERS_OF_TESTS.postgres().url(), TIMEOUT_S, 4)


EMBEDDED: Final = (Engine("embedded", embedded), Engine("graph", graph))
REDIS: Final = (Engine("redis", on_redis), Engine("cluster", on_cluster)) if redis_8() else ()
ENGINES: Final = {each.name: each for each in (*EMBEDDED, *REDIS, Engine("postgres", on_postgres))}
"""Without Redis 8 here, its index is not in it: `conftest.py` says so."""


@asynccontextmanager
async def opened(engine: Engine, folder: Path, clip: str, dimensions: int) -> AsyncIterator[PictureIndex]:
    """An empty index, closed at the end."""
    index = engine.make(folder)
    await index.open(clip, dimensions, fresh=True)
    try:
        yield index
    finally:
        await index.close()
