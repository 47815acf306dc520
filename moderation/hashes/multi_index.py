"""Finds all 256-bit hashes within a few bits of another, among millions. Pure, on arrays of numpy.

Multi-index hashing (Norouzi, Punjani and Fleet 2012, "Fast Search in Hamming Space with Multi-Index
Hashing"): the bits are cut into strips, and each strip has a table of the hashes by their bits there. Two
hashes that differ in few bits differ in very few within at least one strip, so a look-up reads the buckets
near its own in each table, and compares what it finds there in full. Nothing within the distance is missed.

A table is two arrays: where each bucket starts, and the numbers of the hashes in the order of their buckets.
A look-up is done for many hashes at once, by whole arrays.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moderation.hashes.list_file import Array, unique_rows

BITS: Final = 256
STRIDE: Final = 101
"""Between the places, in a PDQ hash, of two bits that are neighbours in a row of words."""
WORDS: Final = 4
"""A hash is a row of four uint64."""
MAX_DISTANCE: Final = 31
FLAT_BELOW: Final = 4_000
"""Fewer hashes are compared one by one."""
NARROW_BELOW: Final = 1_000_000
"""Fewer hashes have narrow strips: tables of 4 MB instead of 600 MB, and more to compare."""
NARROW: Final = (16,) * 16
WIDE: Final = (*(23,) * 10, 26)
AT_A_TIME: Final = 256
"""Hashes that are looked up together. More would not fit into a core's cache."""
MAX_PAIRS: Final = 4_000_000
"""Pairs that are compared together, but for one bucket that has more. A list may have many hashes that are alike."""

Hashes = NDArray[np.uint64]
"""(N, 4), each row a hash whose bits are in the order of `to_words`."""


@dataclass(frozen=True, slots=True)
class Near:
    """A hash that is near: `query` and `number` are rows of the queries and of the index."""

    query: int
    number: int
    distance: int


def to_words(hashes: NDArray[np.uint8]) -> Hashes:
    """Map hashes (N, 32), as bytes, to rows of four words.

    Neighbours among PDQ's bits are of neighbouring frequencies. A strip has bits from all over the hash, so
    that its buckets are of more equal size.
    """
    bits = np.unpackbits(hashes.reshape(-1, BITS // 8), axis=1)
    order = np.arange(BITS) * STRIDE % BITS
    return np.ascontiguousarray(np.packbits(bits[:, order], axis=1)).view("<u8")


def build(hashes: Hashes) -> dict[str, Array]:
    """The arrays of an index of the hashes. Doubles are dropped."""
    unique = unique_rows(hashes)
    arrays: dict[str, Array] = {"pdq.hashes": unique}
    for strip in _strips(len(unique)):
        keys = strip.keys(unique)
        arrays[f"pdq.ids.{strip.start}"] = np.argsort(keys, kind="stable").astype("<u4")
        starts = np.zeros((1 << strip.width) + 1, "<u4")
        np.cumsum(np.bincount(keys, minlength=1 << strip.width), out=starts[1:])
        arrays[f"pdq.starts.{strip.start}"] = starts
    return arrays


class NearHashes:
    """An index in arrays that may be mapped from a file."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        """`arrays` are those of `build`; without any, the index is empty. Raises `KeyError` if some are missing."""
        self._hashes: Hashes = arrays.get("pdq.hashes", np.empty((0, WORDS), np.uint64))
        self._tables = [
            (strip, arrays[f"pdq.starts.{strip.start}"], arrays[f"pdq.ids.{strip.start}"])
            for strip in _strips(len(self._hashes))
        ]

    def __len__(self) -> int:
        return len(self._hashes)

    def near(self, queries: Hashes, distance: int = MAX_DISTANCE) -> list[Near]:
        """All hashes that differ from one of `queries` (Q, 4) in at most `distance` bits."""
        if not 0 <= distance <= MAX_DISTANCE:
            raise ValueError(f"a distance is from 0 to {MAX_DISTANCE}, not {distance}")
        found = set()
        for at in range(0, len(queries), AT_A_TIME):
            some = queries[at : at + AT_A_TIME]
            for query, number in self._candidates(some, distance):
                apart = _bits_apart(self._hashes.take(number, axis=0), some.take(query, axis=0))
                for hit in np.flatnonzero(apart <= distance).tolist():
                    found.add(Near(at + int(query[hit]), int(number[hit]), int(apart[hit])))
        return sorted(found, key=lambda near: (near.query, near.distance, near.number))

    def _candidates(
        self, queries: Hashes, distance: int
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Pairs to compare: rows of the queries, and of the index."""
        if not self._tables:
            for query in range(len(queries)):
                yield np.full(len(self._hashes), query), np.arange(len(self._hashes))
            return
        rows = np.arange(len(queries))
        for (strip, starts, ids), radius in zip(
            self._tables, _radii(len(self._tables), distance), strict=True
        ):
            if radius < 0:
                continue
            masks = _masks(strip.width, radius)
            buckets = (strip.keys(queries)[:, None] ^ masks).ravel()
            start = starts.take(buckets)
            size = starts[1:].take(buckets) - start
            full = np.flatnonzero(size)
            start, size = start[full], size[full]
            owner = np.repeat(rows, len(masks))[full]
            for part in _parts(np.cumsum(size, dtype=np.int64)):
                first, count = start[part].astype(np.int64), size[part]
                end = np.cumsum(count, dtype=np.int64)
                place = np.repeat(first - (end - count), count) + np.arange(end[-1])
                yield np.repeat(owner[part], count), ids.take(place).astype(np.intp)


@dataclass(frozen=True, slots=True)
class _Strip:
    """Some neighbouring bits of the words."""

    start: int
    width: int

    def keys(self, hashes: Hashes) -> NDArray[np.int64]:
        """The bits of the strip in each hash (N, 4), as a number: (N,)."""
        word, shift = divmod(self.start, 64)
        keys = hashes[:, word] >> np.uint64(shift)
        if shift + self.width > 64:
            keys |= hashes[:, word + 1] << np.uint64(64 - shift)
        return (keys & np.uint64((1 << self.width) - 1)).astype(np.int64)


def _strips(count: int) -> list[_Strip]:
    """How an index of `count` hashes is cut."""
    if count < FLAT_BELOW:
        return []
    widths = NARROW if count < NARROW_BELOW else WIDE
    return [
        _Strip(end - width, width) for width, end in zip(widths, itertools.accumulate(widths), strict=True)
    ]


def _radii(strips: int, distance: int) -> list[int]:
    """How many bits may differ within each strip; -1: it need not be read.

    `distance` bits over `strips` strips: if the first `rest + 1` had each more than `share` of them, and the
    others each `share` or more, there were more than `distance` in all.
    """
    share, rest = divmod(distance, strips)
    return [share if number <= rest else share - 1 for number in range(strips)]


@cache
def _masks(width: int, radius: int) -> NDArray[np.int64]:
    """All numbers of `width` bits with at most `radius` ones."""
    ones = (each for count in range(radius + 1) for each in itertools.combinations(range(width), count))
    return np.array([sum(1 << bit for bit in bits) for bits in ones], np.int64)


def _parts(ends: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of buckets with at most `MAX_PAIRS` hashes together, or a single bucket. `ends` sums their sizes."""
    at = done = 0
    while at < len(ends):
        stop = max(at + 1, int(np.searchsorted(ends, done + MAX_PAIRS, "right")))
        yield slice(at, stop)
        at, done = stop, int(ends[stop - 1])


def _bits_apart(ones: Hashes, others: Hashes) -> NDArray[np.uint32]:
    """In how many bits each row of `ones` (N, 4) differs from its row of `others`: (N,). Overwrites `ones`."""
    ones ^= others
    counts: NDArray[np.uint32] = np.bitwise_count(ones).view("<u4")[:, 0]
    # Adds the four bytes, in two steps: the negative of a picture differs in all 256 bits.
    pairs = (counts & np.uint32(0x00FF00FF)) + ((counts >> np.uint32(8)) & np.uint32(0x00FF00FF))
    apart: NDArray[np.uint32] = (pairs + (pairs >> np.uint32(16))) & np.uint32(0xFFFF)
    return apart
