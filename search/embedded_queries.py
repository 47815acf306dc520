"""Queries of the embedded index. One thread answers them, one after the other."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Final

from contracts.pictures import PictureRecord
from search import vectors, words
from search.embedded_folder import IndexFolder
from search.index import IndexStats, Key, Match, Place, in_time
from search.where import Where
from telemetry.logs import get_logger

log = get_logger(__name__)

_SCANNED: Final = 20_000
"""With a filter, the newest so many pictures that have the words are tried."""


class Queries:
    """What an open folder answers."""

    def __init__(self, folder: IndexFolder) -> None:
        self._folder = folder
        self._known: dict[str, int] = {}

    def get_many(self, keys: Sequence[Key]) -> list[PictureRecord | None]:
        """See `PictureIndex.get_many`."""
        numbers = self._folder.reads.scope_ids(key.scope for key in keys)
        return [
            self._folder.reads.record(numbers[scope], name)
            if scope in numbers and vectors.is_name(name)
            else None
            for scope, name in keys
        ]

    def nearest(self, scopes: Sequence[str], raw: bytes, count: int, where: Where) -> list[Match]:
        """See `PictureIndex.nearest`."""
        query = vectors.unit(raw, self._folder.dimensions)
        if query is None:
            log.warning("search.vector_refused", bytes=len(raw))
            return []
        if not count:
            return []
        numbers = self._numbers(scopes)
        found = list[tuple[float, int]]()
        for number in numbers:
            scope = self._folder.in_memory(number, self._folder.reads)
            with self._folder.guard:
                ids, similar = scope.nearest(query, count, where)
            found += zip(map(float, similar), map(int, ids), strict=True)
        found = heapq.nsmallest(count, found, key=lambda each: (-each[0], each[1]))
        return self._matches(found, numbers)

    def by_words(self, scopes: Sequence[str], text: str, count: int, where: Where) -> list[Match]:
        """See `PictureIndex.by_words`."""
        wanted = words.query_terms(text)
        numbers = self._numbers(scopes)
        in_memory = {number: self._folder.in_memory(number, self._folder.reads) for number in numbers}
        frequencies = {
            term: sum(self._folder.reads.frequency(number, term) for number in numbers) for term in wanted
        }
        weight = words.weights(frequencies, sum(map(len, in_memory.values())))
        enough, ids = words.pool(count), dict[int, None]()
        for together in words.plan(frequencies):
            for number, scope in in_memory.items():
                having = self._folder.reads.having(
                    number, together, _SCANNED if where.selects else 2 * enough
                )
                with self._folder.guard:
                    ids |= dict.fromkeys(scope.passing(having, where)[:enough])
            if len(ids) >= enough:
                break
        prompts = self._folder.reads.prompts(list(ids))
        scored = ((words.score(words.terms(prompt), weight), picture) for picture, prompt in prompts.items())
        best = heapq.nsmallest(count, scored, key=lambda each: (-each[0], -each[1]))
        return self._matches(best, numbers)

    def newest(self, scopes: Sequence[str], count: int, where: Where, before: Place | None) -> list[Match]:
        """See `PictureIndex.newest`."""
        found = [
            Match(scope, name, created)
            for number, scope in self._numbers(scopes).items()
            for name, created in self._folder.reads.newest(number, count, where, before)
        ]
        return in_time(found)[:count]

    def count(self, scope: str | None) -> int:
        """See `PictureIndex.count`."""
        sizes = self._folder.reads.sizes()
        if scope is None:
            return sum(sizes.values())
        return sizes.get(self._folder.reads.scope_ids([scope]).get(scope, 0), 0)

    def stats(self) -> IndexStats:
        """See `PictureIndex.stats`."""
        pictures = sum(self._folder.reads.sizes().values())
        return IndexStats(pictures, self._folder.disk_bytes(), self._folder.memory_bytes())

    def _numbers(self, scopes: Sequence[str]) -> dict[int, str]:
        """The scopes that the index knows, by their numbers. These never change."""
        if new := [scope for scope in scopes if scope not in self._known]:
            self._known |= self._folder.reads.scope_ids(new)
        return {self._known[scope]: scope for scope in scopes if scope in self._known}

    def _matches(self, found: Sequence[tuple[float, int]], scopes: Mapping[int, str]) -> list[Match]:
        """The matches of (score, id). A picture that was deleted meanwhile is left out."""
        keys = self._folder.reads.keys([picture for _, picture in found], scopes)
        return [Match(*keys[picture], score) for score, picture in found if picture in keys]
