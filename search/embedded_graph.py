"""A graph (HNSW) over the vectors of a large scope, by usearch, and its file.

Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
Navigable Small World graphs", 2016. The vectors in the graph are float16.

The file is a cache: SQLite has every vector. The entry in SQLite has the file's size and checksum, so a
file that was cut short is never given to usearch, which trusts what it reads.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from usearch.compiled import MetricKind, ScalarKind
from usearch.index import Index

from search.embedded_columns import Ids
from search.embedded_rows import Rows
from search.vectors import Floats

CONNECTIVITY: Final = 16
EXPANSION_ADD: Final = 128
EXPANSION_SEARCH: Final = 128
"""How many candidates a search keeps. Recall rises with it, and so does the time of a query."""
_BATCH: Final = 10_000
_BLOCK: Final = 1 << 24


class Graph:
    """The vectors of one scope by picture id. One thread may change it while no other uses it."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._index = _new(dimensions)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def nbytes(self) -> int:
        """The memory of the graph and its vectors."""
        return int(self._index.memory_usage)

    def add(self, ids: Ids, vectors: Any) -> None:
        """Add pictures that are not there. `vectors`: `(len(ids), dimensions)`."""
        # With several threads, usearch 2.26 leaves some vectors where no search comes by.
        self._index.add(ids.astype(np.uint64), vectors, threads=1)

    def holds(self, picture: int) -> bool:
        """Whether the picture is there."""
        return bool(self._index.contains(picture))

    def remove(self, ids: Sequence[int]) -> None:
        """Remove pictures. One that is not there is ignored."""
        if ids:
            self._index.remove(np.array(ids, np.uint64))

    def search(self, query: Floats, count: int) -> tuple[Ids, Floats]:
        """The ids and cosine similarities of about the `count` nearest pictures, the nearest first."""
        if not len(self):
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        found = self._index.search(query, count, threads=1)
        return found.keys.astype(np.int64), 1.0 - found.distances

    def similarities(self, query: Floats, ids: Ids) -> Floats:
        """The exact cosine similarities of these pictures. All must be there."""
        vectors = np.asarray(self._index.get(ids.astype(np.uint64)), np.float32)
        similar: Floats = vectors.reshape(len(ids), self._dimensions) @ query
        return similar

    def save(self, path: Path) -> tuple[int, int]:
        """Write the file, whole or not at all. Returns its size and checksum. Raises `OSError`."""
        part = path.with_suffix(".part")
        try:
            self._index.save(str(part))
        except RuntimeError as error:
            raise OSError(str(error)) from error
        with part.open("rb") as file:
            os.fsync(file.fileno())
        size, checksum = part.stat().st_size, _checksum(part)
        part.replace(path)
        return size, checksum

    def load(self, path: Path) -> bool:
        """Read a file whose checksum is right. Answers whether it holds vectors such as this graph's."""
        try:
            self._index.load(str(path))
        except (RuntimeError, OSError):
            self._index = _new(self._dimensions)
            return False
        if self._index.ndim != self._dimensions:
            self._index = _new(self._dimensions)
            return False
        self._index.expansion_add, self._index.expansion_search = EXPANSION_ADD, EXPANSION_SEARCH
        return True


def restored(folder: Path, rows: Rows, scope: int, dimensions: int, pictures: int) -> tuple[Graph, bool]:
    """The graph of a scope of so many pictures: from its file and what came since, or from SQLite alone.

    Answers also whether the file could be used. Reads the database; the file may be missing, cut short, or
    of another length of vectors.
    """
    graph = Graph(dimensions)
    entry = rows.vector_file(scope)
    if entry is not None:
        name, size, checksum, upto = entry
        path = folder / name
        if _is_whole(path, size, checksum) and graph.load(path):
            graph.remove(rows.removed(scope))
            _add_all(graph, rows, scope, upto)
            if len(graph) == pictures:
                return graph, True
    graph = Graph(dimensions)
    _add_all(graph, rows, scope, 0)
    return graph, False


def _add_all(graph: Graph, rows: Rows, scope: int, after: int) -> None:
    for ids, raw in rows.vectors(scope, after, _BATCH):
        graph.add(np.array(ids, np.int64), np.frombuffer(raw, "<f2").reshape(len(ids), -1))


def _is_whole(path: Path, size: int, checksum: int) -> bool:
    try:
        return path.stat().st_size == size and _checksum(path) == checksum
    except OSError:
        return False


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total = zlib.crc32(block, total)
    return total


def _new(dimensions: int) -> Any:
    return Index(
        ndim=dimensions,
        metric=MetricKind.Cos,
        dtype=ScalarKind.F16,
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD,
        expansion_search=EXPANSION_SEARCH,
    )
