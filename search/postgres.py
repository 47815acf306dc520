"""The index on PostgreSQL with pgvector: one table, with a graph (HNSW), an inverted index and indexes for filters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from contracts.errors import StoreFull, StoreUnavailable
from contracts.pictures import PictureRecord
from search import postgres_sql as sql
from search import vectors, words
from search.index import (
    REBUILD,
    IndexMismatch,
    IndexStats,
    Key,
    Match,
    Place,
    Refusal,
    VectorsMissing,
    bounded,
)
from search.where import EVERYTHING, Where
from telemetry.logs import get_logger

log = get_logger(__name__)

_COMPARED: Final = 10_000
"""Scopes and filters with at most so many pictures are answered by comparing all of them."""
_REMEMBERED: Final = 10_000
_COUNTED: Final = 20_000
"""Pictures that have a word are counted up to here. A word of more tells nothing."""
_MISSING: Final = (
    "The search index needs the extension `vector` (pgvector) 0.8 or newer in this database, which has {found}. Install it, "
    "or use another DARKROOM_SEARCH_INDEX."
)
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class PostgresIndex:
    """A `PictureIndex` in the schema `darkroom_search` of the database at `url`. Several processes may use it at once."""

    def __init__(self, url: str, timeout_s: float, max_connections: int) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._pool: AsyncConnectionPool[Connection] | None = None
        self._large: set[tuple[str, ...]] = set()
        self._clip = ""
        self._dimensions = 0

    async def open(self, clip: str, dimensions: int, *, fresh: bool = False) -> None:
        """See `PictureIndex.open`. The user must be allowed to make the schema, and the extension where it is missing."""
        await self.close()
        self._clip, self._dimensions = clip, dimensions
        async with _errors():
            # The first connection makes what the pool's connections need.
            async with await psycopg.AsyncConnection.connect(
                self._url, connect_timeout=max(2, round(self._timeout_s))
            ) as connection:
                await self._prepare(connection, fresh)
            self._pool = AsyncConnectionPool(
                self._url,
                min_size=1,
                max_size=self._max_connections,
                timeout=self._timeout_s,
                kwargs={"autocommit": True, "connect_timeout": max(2, round(self._timeout_s))},
                configure=self._configure,
                open=False,
            )
            await self._pool.open(wait=True, timeout=self._timeout_s)

    async def put(self, records: Sequence[PictureRecord]) -> Sequence[Refusal]:
        """See `PictureIndex.put`."""
        taken, refused = vectors.sorted_out(records, self._clip, self._dimensions)
        # In one order, so that two processes never wait for each other.
        rows = [sql.row(record) for record in sorted(taken, key=lambda each: (each.scope, each.name))]
        async with self._connection() as connection, connection.transaction(), connection.cursor() as cursor:
            await cursor.executemany(sql.PUT, rows)
        return refused

    async def delete(self, scope: str, names: Sequence[str]) -> int:
        """See `PictureIndex.delete`."""
        known = [name for name in names if vectors.is_name(name)]
        return await self._changed(sql.DELETE, [scope, known]) if vectors.is_scope(scope) else 0

    async def get(self, scope: str, name: str) -> PictureRecord | None:
        """See `PictureIndex.get`."""
        return (await self.get_many([Key(scope, name)]))[0]

    async def get_many(self, keys: Sequence[Key]) -> Sequence[PictureRecord | None]:
        """See `PictureIndex.get_many`."""
        known = {key: at for at, key in enumerate(dict.fromkeys(filter(_is_key, keys)))}
        rows = await self._rows(sql.GET, [[key.scope for key in known], [key.name for key in known]])
        found = [PictureRecord.model_validate_json(text) if text else None for (text,) in rows]
        return [found[known[key]] if key in known else None for key in keys]

    async def nearest(
        self, scopes: Sequence[str], vector: bytes, count: int, where: Where = EVERYTHING
    ) -> Sequence[Match]:
        """See `PictureIndex.nearest`."""
        query, count, within = vectors.unit(vector, self._dimensions), bounded(count), _known(scopes)
        async with self._connection() as connection:
            if query is None:
                log.warning("search.vector_refused", bytes=len(vector))
                return []
            if not (count and within):
                return []
            exact, asked = not await self._is_large(connection, within, where), sql.vector_text(query)
            text, values = sql.nearest(where, exact=exact)
            found = await _fetch(connection, text, [asked, within, *values, asked, count])
            if not exact and len(found) < count:
                self._large.discard(tuple(within))
                text, values = sql.nearest(where, exact=True)
                found = await _fetch(connection, text, [asked, within, *values, asked, count])
        return [Match(scope, name, float(score)) for scope, name, score in found]

    async def by_words(
        self, scopes: Sequence[str], words: str, count: int, where: Where = EVERYTHING
    ) -> Sequence[Match]:
        """See `PictureIndex.by_words`."""
        return await self._by_words(_known(scopes), words, bounded(count), where)

    async def newest(
        self, scopes: Sequence[str], count: int, where: Where = EVERYTHING, before: Place | None = None
    ) -> Sequence[Match]:
        """See `PictureIndex.newest`."""
        count, within = bounded(count), _known(scopes)
        async with self._connection() as connection:
            if not (count and within):
                return []
            text, values = sql.latest(where, before)
            found = await _fetch(connection, text, [within, *values, count])
        return [Match(scope, name, float(created)) for scope, name, created in found]

    async def expire(self, now: float, limit: int) -> int:
        """See `PictureIndex.expire`."""
        return await self._changed(sql.EXPIRE, [now, limit])

    async def count(self, scope: str | None = None) -> int:
        """See `PictureIndex.count`. Of all scopes it is the planner's estimate, where that is above a million."""
        if scope is None:
            ((found,),) = await self._rows(sql.COUNT_ALL, [])
        else:
            ((found,),) = await self._rows(sql.COUNT, [scope]) if vectors.is_scope(scope) else [(0,)]
        return int(found)

    async def erase(self, scope: str) -> int:
        """See `PictureIndex.erase`."""
        erased = 0
        while vectors.is_scope(scope) and (gone := await self._changed(sql.ERASE_SOME, [scope, scope])):
            erased += gone
        return erased

    async def stats(self) -> IndexStats:
        """See `PictureIndex.stats`. Memory is not told: all processes of the server share it."""
        ((size,),) = await self._rows(sql.SIZE, [])
        return IndexStats(await self.count(), int(size), 0)

    async def flush(self) -> None:
        """See `PictureIndex.flush`. PostgreSQL writes by itself."""
        async with self._connection():
            return

    async def close(self) -> None:
        """See `PictureIndex.close`."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _is_large(self, connection: Connection, scopes: list[str], where: Where) -> bool:
        """Whether so many pictures pass that the graph is quicker. It is remembered of scopes, where nothing else is filtered."""
        known = tuple(scopes)
        if not where.selects and known in self._large:
            return True
        text, values = sql.passing(where)
        ((passing,),) = await _fetch(connection, text, [scopes, *values, _COMPARED + 1])
        if passing > _COMPARED and not where.selects and len(self._large) < _REMEMBERED:
            self._large.add(known)
        return bool(passing > _COMPARED)

    async def _prepare(self, connection: Connection, fresh: bool) -> None:
        """Make the tables, or check that they are ours. Raises `IndexMismatch`, `VectorsMissing`."""
        async with connection.transaction():
            await _fetch(connection, sql.LOCK, [])
            await self._require_pgvector(connection)
            if fresh:
                await connection.execute(sql.DROP)
            ((exists,),) = await _fetch(connection, sql.EXISTS, [])
            if not exists:
                for text in sql.tables(self._dimensions):
                    await connection.execute(text)
                await connection.execute(sql.CLAIM, [self._clip, self._dimensions, sql.FORMAT])
            ((clip, dimensions, version),) = await _fetch(connection, sql.META, [])
        if (clip, dimensions, version) != (self._clip, self._dimensions, sql.FORMAT):
            raise IndexMismatch(
                f"The search index on PostgreSQL holds vectors of {clip} with {dimensions} dimensions (format {version}), and "
                f"not of {self._clip} with {self._dimensions} (format {sql.FORMAT}). {REBUILD}"
            )

    async def _require_pgvector(self, connection: Connection) -> None:
        try:
            async with connection.transaction():
                await connection.execute(sql.EXTENSION)
        except psycopg.errors.Error as error:
            log.debug("search.extension_not_made", error=type(error).__name__)
        found = await _fetch(connection, sql.PGVECTOR, [])
        version = found[0][0] if found else "none"
        if not found or tuple(int(part) for part in version.split(".")[:2]) < sql.LEAST_PGVECTOR:
            raise VectorsMissing(_MISSING.format(found=version))

    async def _configure(self, connection: Connection) -> None:
        for text in (*sql.SESSION, f"SET statement_timeout = {round(self._timeout_s * 1000)}"):
            await connection.execute(text)

    async def _by_words(self, scopes: list[str], text: str, count: int, where: Where) -> list[Match]:
        wanted, enough = words.query_terms(text), words.pool(count)
        terms: dict[tuple[str, str], list[str]] = {}
        async with self._connection() as connection:
            if not (wanted and scopes and count):
                return []
            queries = [" | ".join(sql.having(scope, [term]) for scope in scopes) for term in wanted]
            told = await _fetch(connection, sql.FREQUENCIES, [scopes, _COUNTED, queries])
            frequencies = {term: int(number) for term, (number,) in zip(wanted, told, strict=True)}
            every, _ = sql.passing(EVERYTHING)
            ((pictures,),) = await _fetch(connection, every, [scopes, _COUNTED])
            newest, values = sql.newest(where)
            for together in words.plan(frequencies):
                for scope in scopes:
                    asked = [scope, sql.having(scope, together), *values, enough]
                    terms |= {
                        (found, name): each for found, name, each in await _fetch(connection, newest, asked)
                    }
                if len(terms) >= enough:
                    break
        weight = words.weights(frequencies, int(pictures))
        matches = [Match(*key, words.score(each, weight)) for key, each in terms.items()]
        return sorted(matches, key=lambda match: (-match.score, match.scope, match.name))[:count]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        if self._pool is None:
            raise StoreUnavailable("The search index is not open.")
        async with _errors(), self._pool.connection() as connection:
            yield connection

    async def _rows(self, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        async with self._connection() as connection:
            return await _fetch(connection, text, values)

    async def _changed(self, text: str, values: Sequence[Any]) -> int:
        async with self._connection() as connection:
            return max(0, (await connection.execute(text, values)).rowcount)


@asynccontextmanager
async def _errors() -> AsyncIterator[None]:
    """Turns psycopg's errors into ours. Raises `StoreFull`, `StoreUnavailable`."""
    try:
        yield
    except psycopg.errors.DiskFull as error:
        raise StoreFull("The search index is full: PostgreSQL has no room on its disk.") from error
    except (psycopg.Error, PoolTimeout) as error:
        raise StoreUnavailable(f"The search index did not answer: {type(error).__name__}.") from error


async def _fetch(connection: Connection, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    return await (await connection.execute(text, values)).fetchall()


def _known(scopes: Sequence[str]) -> list[str]:
    return [scope for scope in dict.fromkeys(scopes) if vectors.is_scope(scope)]


def _is_key(key: Key) -> bool:
    return vectors.is_scope(key.scope) and vectors.is_name(key.name)
