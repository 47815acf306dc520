"""The embedded index: one folder, one process, no service.

SQLite has the records, vectors and words. Two threads do all the work: one writes, one answers queries.
The event loop waits for neither. What both touch in memory is guarded by one lock, which the writer
holds for a few vectors at a time.
"""

from __future__ import annotations

import asyncio
import fcntl
import heapq
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from contracts.errors import StoreUnavailable
from contracts.pictures import PictureRecord
from search import vectors, words
from search.embedded_rows import SCHEMA, Rows, connect, fields_of
from search.embedded_scope import ScopeInMemory
from search.index import (
    REBUILD,
    IndexBusy,
    IndexDamaged,
    IndexMismatch,
    IndexStats,
    Key,
    Match,
    Refusal,
    bounded,
)
from search.where import EVERYTHING, Where
from telemetry.logs import get_logger

T = TypeVar("T")
log = get_logger(__name__)

DATABASE: Final = "pictures.sqlite3"
_LOCK: Final = "lock"
_CLOSED: Final = "The search index is not open."
_TOGETHER: Final = 16
"""Records that are put under one hold of the lock."""
_ERASED: Final = 500
_SCANNED: Final = 20_000
"""With a filter, the newest so many pictures that have the words are tried."""
_SAVE_AFTER: Final = 10_000
_SAVE_SHARE: Final = 0.2
"""A graph is written once so many vectors, and this share of them, have changed."""


class EmbeddedIndex:
    """A `PictureIndex` in the folder `folder`. Scopes of fewer than `exact_below` pictures are searched exactly."""

    def __init__(self, folder: Path, exact_below: int) -> None:
        self._folder = folder
        self._exact_below = exact_below
        self._clip = ""
        self._dimensions = 0
        self._writer: ThreadPoolExecutor | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._lock_file: int | None = None
        self._databases: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._scopes: dict[int, ScopeInMemory] = {}

    async def open(self, clip: str, dimensions: int, *, fresh: bool = False) -> None:
        """See `PictureIndex.open`. Reads large scopes into memory."""
        await self.close()
        self._clip, self._dimensions = clip, dimensions
        self._writer = ThreadPoolExecutor(1, "search-write")
        self._reader = ThreadPoolExecutor(1, "search-read")
        try:
            await self._on(self._writer, self._open, fresh)
        except BaseException:
            await self.close(flush=False)
            raise

    async def put(self, records: Sequence[PictureRecord]) -> Sequence[Refusal]:
        """See `PictureIndex.put`."""
        if self._writer is None:
            raise StoreUnavailable(_CLOSED)
        refused, taken = list[Refusal](), list[PictureRecord]()
        for record in records:
            reason = vectors.fault(record, self._clip, self._dimensions)
            if reason is None:
                taken.append(record)
            else:
                refused.append(Refusal(record.scope, record.name, reason))
        taken = list({(record.scope, record.name): record for record in taken}.values())
        for at in range(0, len(taken), _TOGETHER):
            await self._on(self._writer, self._put, taken[at : at + _TOGETHER])
        return refused

    async def delete(self, scope: str, names: Sequence[str]) -> int:
        """See `PictureIndex.delete`."""
        known = list(filter(vectors.is_name, dict.fromkeys(names)))
        return await self._on(self._writer, self._delete, scope, known)

    async def get(self, scope: str, name: str) -> PictureRecord | None:
        """See `PictureIndex.get`."""
        return (await self.get_many([Key(scope, name)]))[0]

    async def get_many(self, keys: Sequence[Key]) -> Sequence[PictureRecord | None]:
        """See `PictureIndex.get_many`."""
        return await self._on(self._reader, self._get_many, keys)

    async def nearest(
        self, scopes: Sequence[str], vector: bytes, count: int, where: Where = EVERYTHING
    ) -> Sequence[Match]:
        """See `PictureIndex.nearest`."""
        return await self._on(self._reader, self._nearest, scopes, vector, bounded(count), where)

    async def by_words(
        self, scopes: Sequence[str], words: str, count: int, where: Where = EVERYTHING
    ) -> Sequence[Match]:
        """See `PictureIndex.by_words`."""
        return await self._on(self._reader, self._by_words, scopes, words, bounded(count), where)

    async def expire(self, now: float, limit: int) -> int:
        """See `PictureIndex.expire`."""
        return await self._on(self._writer, self._expire, now, limit)

    async def count(self, scope: str | None = None) -> int:
        """See `PictureIndex.count`."""
        return await self._on(self._reader, self._count, scope)

    async def erase(self, scope: str) -> int:
        """See `PictureIndex.erase`."""
        erased = 0
        while gone := await self._on(self._writer, self._erase_some, scope):
            erased += gone
        return erased

    async def stats(self) -> IndexStats:
        """See `PictureIndex.stats`. Memory is that of vectors, graphs and filters."""
        return await self._on(self._reader, self._stats)

    async def flush(self) -> None:
        """See `PictureIndex.flush`. Writes the graphs that have changed."""
        await self._on(self._writer, self._save, 0, 0.0)

    async def close(self, *, flush: bool = True) -> None:
        """See `PictureIndex.close`. `flush` false: write no graph."""
        writer, reader, self._writer, self._reader = self._writer, self._reader, None, None
        if writer is None or reader is None:
            return
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(reader, lambda: None)  # the last query has ended
        await loop.run_in_executor(writer, self._close, flush)
        writer.shutdown()
        reader.shutdown()

    async def _on(self, thread: ThreadPoolExecutor | None, work: Callable[..., T], *given: object) -> T:
        if thread is None:
            raise StoreUnavailable(_CLOSED)
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work, *given)
        except OSError as error:
            raise StoreUnavailable(
                f"The search index cannot use its folder: {error.strerror or error}."
            ) from error

    def _open(self, fresh: bool) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = os.open(self._folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise IndexBusy(f"Another process has the search index in {self._folder} open.") from None
        database = self._folder / DATABASE
        if fresh:
            for path in (*self._folder.glob(f"{DATABASE}*"), *self._folder.glob("vectors-*")):
                path.unlink()
        elif database.exists() and not database.stat().st_size:
            raise IndexDamaged(
                f"The search index in {self._folder} is damaged: {DATABASE} is empty. {REBUILD}"
            )
        self._databases = [connect(database)]
        self._databases.append(connect(database, reads_only=True))
        self._writes, self._reads = map(Rows, self._databases)
        self._claim()
        for number, pictures in self._writes.sizes().items():
            if pictures >= self._exact_below:
                self._in_memory(number, self._writes)
            elif self._writes.vector_file(number):
                self._writes.set_vector_file(number, None, self._writes.removed(number))
        self._sweep()

    def _claim(self) -> None:
        """Make a new index ours, or check that it is. Raises `IndexMismatch`."""
        ours = {"clip": self._clip, "dimensions": str(self._dimensions), "schema": str(SCHEMA)}
        found = self._writes.meta()
        if not found:
            with self._writes.transaction():
                self._writes.set_meta(ours)
        elif found != ours:
            raise IndexMismatch(
                f"The search index in {self._folder} holds vectors of {found.get('clip')} with {found.get('dimensions')} "
                f"dimensions (format {found.get('schema')}), and not of {self._clip} with {self._dimensions} "
                f"(format {SCHEMA}). {REBUILD}"
            )

    def _sweep(self) -> None:
        """Delete files that an earlier process left behind."""
        known = self._writes.files()
        for path in self._folder.glob("vectors-*"):
            if path.name not in known:
                path.unlink(missing_ok=True)

    def _in_memory(self, number: int, rows: Rows) -> ScopeInMemory:
        """The scope's pictures in memory, read now if they were not."""
        with self._guard:
            found = self._scopes.get(number)
            if found is None:
                found = ScopeInMemory(number, self._dimensions)
                with rows.snapshot():
                    found.load(self._folder, rows, rows.sizes()[number], self._exact_below)
                self._scopes[number] = found
            return found

    def _put(self, records: Sequence[PictureRecord]) -> None:
        with self._writes.transaction():
            written = [(self._writes.put(record), record) for record in records]
        scopes = {each.scope: self._in_memory(each.scope, self._writes) for each, _ in written}
        with self._guard:
            for each, record in written:
                scopes[each.scope].remove(each.replaced)
                scopes[each.scope].add(fields_of(record, each.picture), vectors.raw_of(record))
        self._grow_and_save()

    def _delete(self, scope: str, names: Sequence[str]) -> int:
        number = self._writes.scope_ids([scope]).get(scope)
        return 0 if number is None else self._forget({number: names})

    def _expire(self, now: float, limit: int) -> int:
        return self._forget(self._writes.expired(now, limit))

    def _erase_some(self, scope: str) -> int:
        number = self._writes.scope_ids([scope]).get(scope)
        return 0 if number is None else self._forget({number: self._writes.names(number, _ERASED)})

    def _forget(self, names: Mapping[int, Sequence[str]]) -> int:
        with self._writes.transaction():
            gone = {number: self._writes.delete(number, each) for number, each in names.items()}
        with self._guard:
            for number, ids in gone.items():
                if number in self._scopes:
                    self._scopes[number].remove(ids)
        self._grow_and_save()
        return sum(map(len, gone.values()))

    def _grow_and_save(self) -> None:
        """Make graphs of scopes that have become large, and write those that have changed much."""
        for scope in list(self._scopes.values()):
            if scope.graph is None and len(scope) >= self._exact_below:
                graph = scope.grown()  # queries go on meanwhile: only this thread changes the scope
                with self._guard:
                    scope.use(graph)
        try:
            self._save(_SAVE_AFTER, _SAVE_SHARE)
        except OSError as error:
            # The pictures are in SQLite, and the next start adds them to the graph of the last file.
            log.warning("search.graph_not_written", error=str(error))

    def _save(self, changes: int, share: float) -> None:
        """Write the graphs of which more than `changes` vectors and more than `share` of them have changed."""
        for scope in list(self._scopes.values()):
            if scope.graph is None or scope.changes <= max(changes, share * len(scope)):
                continue
            scope.changes = 0
            removed = self._writes.removed(scope.number)
            upto = self._writes.last_id()
            name = f"vectors-{scope.number}-{upto}-{len(removed)}.usearch"
            size, checksum = scope.graph.save(self._folder / name)
            self._writes.set_vector_file(scope.number, (name, size, checksum, upto), removed)
            self._sweep()

    def _get_many(self, keys: Sequence[Key]) -> list[PictureRecord | None]:
        numbers = self._reads.scope_ids(key.scope for key in keys)
        return [
            self._reads.record(numbers[scope], name) if scope in numbers and vectors.is_name(name) else None
            for scope, name in keys
        ]

    def _nearest(self, scopes: Sequence[str], raw: bytes, count: int, where: Where) -> list[Match]:
        query = vectors.unit(raw, self._dimensions)
        if query is None:
            log.warning("search.vector_refused", bytes=len(raw))
            return []
        if not count:
            return []
        numbers = {number: scope for scope, number in self._reads.scope_ids(scopes).items()}
        found = list[tuple[float, int]]()
        for number in numbers:
            scope = self._in_memory(number, self._reads)
            with self._guard:
                ids, similar = scope.nearest(query, count, where)
            found += zip(map(float, similar), map(int, ids), strict=True)
        found = heapq.nsmallest(count, found, key=lambda each: (-each[0], each[1]))
        return self._matches(found, numbers)

    def _by_words(self, scopes: Sequence[str], text: str, count: int, where: Where) -> list[Match]:
        wanted = words.query_terms(text)
        numbers = {number: scope for scope, number in self._reads.scope_ids(scopes).items()}
        in_memory = {number: self._in_memory(number, self._reads) for number in numbers}
        frequencies = {
            term: sum(self._reads.frequency(number, term) for number in numbers) for term in wanted
        }
        weight = words.weights(frequencies, sum(map(len, in_memory.values())))
        enough, ids = words.pool(count), dict[int, None]()
        for together in words.plan(frequencies):
            for number, scope in in_memory.items():
                having = self._reads.having(number, together, _SCANNED if where.selects else 2 * enough)
                with self._guard:
                    ids |= dict.fromkeys(scope.passing(having, where)[:enough])
            if len(ids) >= enough:
                break
        prompts = self._reads.prompts(list(ids))
        scored = ((words.score(words.terms(prompt), weight), picture) for picture, prompt in prompts.items())
        best = heapq.nsmallest(count, scored, key=lambda each: (-each[0], -each[1]))
        return self._matches(best, numbers)

    def _matches(self, found: Sequence[tuple[float, int]], scopes: Mapping[int, str]) -> list[Match]:
        """The matches of (score, id). A picture that was deleted meanwhile is left out."""
        keys = self._reads.keys([picture for _, picture in found], scopes)
        return [Match(*keys[picture], score) for score, picture in found if picture in keys]

    def _count(self, scope: str | None) -> int:
        sizes = self._reads.sizes()
        if scope is None:
            return sum(sizes.values())
        return sizes.get(self._reads.scope_ids([scope]).get(scope, 0), 0)

    def _stats(self) -> IndexStats:
        disk = sum(path.stat().st_size for path in self._folder.iterdir())
        with self._guard:
            memory = sum(scope.nbytes for scope in self._scopes.values())
        return IndexStats(sum(self._reads.sizes().values()), disk, memory)

    def _close(self, flush: bool) -> None:
        try:
            if flush and self._databases:
                self._save(0, 0.0)
        except (OSError, StoreUnavailable, IndexDamaged) as error:
            # The next start makes the graphs from SQLite.
            log.warning("search.graph_not_written", error=str(error))
        finally:
            for database in self._databases:
                database.close()
            self._databases = []
            self._scopes = {}
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None
