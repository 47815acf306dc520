"""The port of the picture index, with its values and errors.

An index holds one record for each picture, its vector, and the words of its prompt. Three engines
implement the port: `search.embedded`, `search.redis_index` and `search.postgres`. All pass one suite.

A picture is found only in the scopes that a query names. Vectors of two CLIP models are never compared:
an index belongs to one model, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from contracts.pictures import PictureRecord
from search.where import EVERYTHING, Where

MAX_COUNT: Final = 1000
"""The most matches of one query. A query for more gets this many."""


class IndexMismatch(Exception):
    """The index holds vectors of another CLIP model, or of another length. The message names both."""


class IndexDamaged(Exception):
    """The index cannot be read. The message says that `python -m search --rebuild` makes a new one."""


class IndexBusy(Exception):
    """Another process has the embedded index open."""


class VectorSetsMissing(Exception):
    """The server has no vector sets: it is Valkey, or Redis below version 8."""


class VectorsMissing(Exception):
    """PostgreSQL has no extension `vector`, or one without half-precision vectors."""


REBUILD: Final = "`python -m search --rebuild` makes a new index from the records."


class Key(NamedTuple):
    """What identifies a picture."""

    scope: str
    name: str


class Match(NamedTuple):
    """A picture that a query found.

    `score` of a vector query is the cosine similarity, from -1 to 1. `score` of a query by words is the sum
    of the weights of the words found (`search.words`); it has no upper bound. `score` of the newest is
    their time of creation.
    """

    scope: str
    name: str
    score: float

    @property
    def key(self) -> Key:
        """What identifies the picture."""
        return Key(self.scope, self.name)


class Place(NamedTuple):
    """A place in the order of `PictureIndex.newest`: a time of creation, in Unix seconds, and a name."""

    created_at: float
    name: str


class Refusal(NamedTuple):
    """A record that the index did not take, and why. Nothing else of its `put` is affected."""

    scope: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class IndexStats:
    """The size of an index.

    `disk_bytes` and `memory_bytes` are what the engine reports. Zero: it does not keep data there, or does
    not tell.
    """

    pictures: int
    disk_bytes: int
    memory_bytes: int


def bounded(count: int) -> int:
    """How many matches a query for `count` gets at most."""
    return min(max(count, 0), MAX_COUNT)


def in_time(matches: Iterable[Match]) -> list[Match]:
    """Matches in the order of `PictureIndex.newest`."""
    return sorted(matches, key=lambda match: (-match.score, match.name, match.scope))


class PictureIndex(Protocol):
    """The index of pictures.

    Vectors are the bytes of `contracts.pictures.Embedding`: little-endian float16. A query's vector need
    not have length 1. Every coroutine but `open` and `close` raises `contracts.errors.StoreUnavailable`
    when the engine is away or slow, and `StoreFull` when it has no room.
    """

    async def open(self, clip: str, dimensions: int, *, fresh: bool = False) -> None:
        """Open the index for vectors of the CLIP model `clip` (`name@revision`). An empty index becomes its own.

        `fresh`: first forget all that the index holds, of whichever model, damaged or not.
        Raises `IndexMismatch`, `IndexDamaged`, `IndexBusy`, `VectorSetsMissing`, `VectorsMissing`,
        `StoreUnavailable`.
        """
        ...

    async def put(self, records: Sequence[PictureRecord]) -> Sequence[Refusal]:
        """Add pictures, or replace those of the same scope and name. Putting a record again changes nothing.

        Returns the records that the index refuses: of another model, with a vector that is none, or with a
        name or scope that cannot be one.
        """
        ...

    async def delete(self, scope: str, names: Sequence[str]) -> int:
        """Forget pictures of the scope. Returns how many there were. Idempotent."""
        ...

    async def get(self, scope: str, name: str) -> PictureRecord | None:
        """The record of a picture, also of one that has expired; None: the index has no such picture."""
        ...

    async def get_many(self, keys: Sequence[Key]) -> Sequence[PictureRecord | None]:
        """Like `get`, for several pictures in one call, in their order."""
        ...

    async def nearest(
        self, scopes: Sequence[str], vector: bytes, count: int, where: Where = EVERYTHING
    ) -> Sequence[Match]:
        """Up to `count` pictures of the scopes, the most similar to the vector first.

        A vector that is none (of another length, not finite, or zero) finds nothing.
        """
        ...

    async def by_words(
        self, scopes: Sequence[str], words: str, count: int, where: Where = EVERYTHING
    ) -> Sequence[Match]:
        """Up to `count` pictures of the scopes whose prompts have words of the text, the best first.

        Any text is a query; one without words finds nothing. Words have no syntax.
        """
        ...

    async def newest(
        self, scopes: Sequence[str], count: int, where: Where = EVERYTHING, before: Place | None = None
    ) -> Sequence[Match]:
        """Up to `count` pictures of the scopes, the newest first, and of one time by name.

        `before`: only those that come after this place in that order.
        """
        ...

    async def expire(self, now: float, limit: int) -> int:
        """Forget up to `limit` pictures whose `expires_at` is at or before `now`. Returns how many."""
        ...

    async def count(self, scope: str | None = None) -> int:
        """How many pictures the index holds, in one scope or in all."""
        ...

    async def erase(self, scope: str) -> int:
        """Forget all pictures of a scope. Returns how many there were."""
        ...

    async def stats(self) -> IndexStats:
        """The size of the index."""
        ...

    async def flush(self) -> None:
        """Write to disk what makes the next start quick. Nothing is lost without it."""
        ...

    async def close(self) -> None:
        """Flush, and let go of files and connections. Safe to call twice."""
        ...
