"""The embedded index: one folder, one process, no service.

SQLite has the records, vectors and words. Two threads do all the work: one writes, one answers queries.
The event loop waits for neither. What both touch in memory is guarded by one lock, which the writer
holds for a few vectors at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from contracts.errors import StoreUnavailable
from contracts.pictures import PictureRecord
from search import vectors
from search.embedded_folder import IndexFolder
from search.embedded_queries import Queries
from search.index import IndexStats, Key, Match, Place, Refusal, bounded
from search.where import EVERYTHING, Where

T = TypeVar("T")

_TRANSACTION: Final = 256
"""Records that are written to the database together."""
_SMALL_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class _Open:
    """An index that is open, and its two threads."""

    folder: IndexFolder
    queries: Queries
    writer: ThreadPoolExecutor
    reader: ThreadPoolExecutor


class EmbeddedIndex:
    """A `PictureIndex` in the folder `folder`. Scopes of fewer than `exact_below` pictures are searched exactly.

    `small_bytes`: about how much memory these take. Those that were not used for the longest time are read
    again when they are needed.
    """

    def __init__(self, folder: Path, exact_below: int, small_bytes: int = _SMALL_BYTES) -> None:
        self._folder = folder
        self._exact_below = exact_below
        self._small_bytes = small_bytes
        self._clip = ""
        self._dimensions = 0
        self._state: _Open | None = None

    async def open(self, clip: str, dimensions: int, *, fresh: bool = False) -> None:
        """See `PictureIndex.open`. Reads large scopes into memory."""
        await self.close()
        self._clip, self._dimensions = clip, dimensions
        folder = IndexFolder(self._folder, clip, dimensions, self._exact_below, self._small_bytes)
        threads = (ThreadPoolExecutor(1, "search-write"), ThreadPoolExecutor(1, "search-read"))
        self._state = _Open(folder, Queries(folder), *threads)
        try:
            await self._write(folder.open, fresh)
        except BaseException:
            await self.close(flush=False)
            raise

    async def put(self, records: Sequence[PictureRecord]) -> Sequence[Refusal]:
        """See `PictureIndex.put`."""
        folder = self._opened.folder
        taken, refused = vectors.sorted_out(records, self._clip, self._dimensions)
        for at in range(0, len(taken), _TRANSACTION):
            await self._write(folder.put, taken[at : at + _TRANSACTION])
        return refused

    async def delete(self, scope: str, names: Sequence[str]) -> int:
        """See `PictureIndex.delete`."""
        known = list(filter(vectors.is_name, dict.fromkeys(names)))
        return await self._write(self._opened.folder.delete, scope, known)

    async def get(self, scope: str, name: str) -> PictureRecord | None:
        """See `PictureIndex.get`."""
        return (await self.get_many([Key(scope, name)]))[0]

    async def get_many(self, keys: Sequence[Key]) -> Sequence[PictureRecord | None]:
        """See `PictureIndex.get_many`."""
        return await self._read(self._opened.queries.get_many, keys)

    async def nearest(
        self, scopes: Sequence[str], vector: bytes, count: int, where: Where = EVERYTHING
    ) -> Sequence[Match]:
        """See `PictureIndex.nearest`."""
        return await self._read(self._opened.queries.nearest, scopes, vector, bounded(count), where)

    async def by_words(
        self, scopes: Sequence[str], words: str, count: int, where: Where = EVERYTHING
    ) -> Sequence[Match]:
        """See `PictureIndex.by_words`."""
        return await self._read(self._opened.queries.by_words, scopes, words, bounded(count), where)

    async def newest(
        self, scopes: Sequence[str], count: int, where: Where = EVERYTHING, before: Place | None = None
    ) -> Sequence[Match]:
        """See `PictureIndex.newest`."""
        return await self._read(self._opened.queries.newest, scopes, bounded(count), where, before)

    async def expire(self, now: float, limit: int) -> int:
        """See `PictureIndex.expire`."""
        return await self._write(self._opened.folder.expire, now, limit)

    async def count(self, scope: str | None = None) -> int:
        """See `PictureIndex.count`."""
        return await self._read(self._opened.queries.count, scope)

    async def erase(self, scope: str) -> int:
        """See `PictureIndex.erase`."""
        erased = 0
        while gone := await self._write(self._opened.folder.erase_some, scope):
            erased += gone
        return erased

    async def stats(self) -> IndexStats:
        """See `PictureIndex.stats`. Memory is that of vectors, graphs and filters."""
        return await self._read(self._opened.queries.stats)

    async def flush(self) -> None:
        """See `PictureIndex.flush`. Writes the graphs that have changed."""
        await self._write(self._opened.folder.save_all)

    async def close(self, *, flush: bool = True) -> None:
        """See `PictureIndex.close`. `flush` false: write no graph."""
        state, self._state = self._state, None
        if state is None:
            return
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(state.reader, lambda: None)  # the last query has ended
        await loop.run_in_executor(state.writer, state.folder.close, flush)
        state.writer.shutdown()
        state.reader.shutdown()

    @property
    def _opened(self) -> _Open:
        if self._state is None:
            raise StoreUnavailable("The search index is not open.")
        return self._state

    async def _write(self, work: Callable[..., T], *given: object) -> T:
        return await _in_thread(self._opened.writer, work, *given)

    async def _read(self, work: Callable[..., T], *given: object) -> T:
        return await _in_thread(self._opened.reader, work, *given)


async def _in_thread(thread: ThreadPoolExecutor, work: Callable[..., T], *given: object) -> T:
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work, *given)
    except OSError as error:
        raise StoreUnavailable(
            f"The search index cannot use its folder: {error.strerror or error}."
        ) from error
