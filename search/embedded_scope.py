"""All that the embedded index has in memory of one scope, and the search among it.

A small scope is searched exactly. A large one has a graph. A filter that few pictures pass is evaluated
first, and these pictures are compared one by one. Any other filter is applied to what the graph finds,
which is asked for more until enough pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from search.embedded_columns import Columns, Fields, Ids
from search.embedded_graph import Graph, restored
from search.embedded_rows import Rows
from search.vectors import Floats, halves
from search.where import Where

_COMPARED: Final = 10_000
"""A filter that at most so many pictures pass is answered by comparing them one by one."""
_MOST_ASKED: Final = 20_000
"""The graph is asked for at most so many pictures. Beyond that, all that pass are compared."""
_SLACK: Final = 8


class ScopeInMemory:
    """The pictures of one scope. `number` is the scope's in SQLite."""

    def __init__(self, number: int, dimensions: int) -> None:
        self.number = number
        self._dimensions = dimensions
        self._columns = Columns(dimensions)
        self._graph: Graph | None = None
        self.changes = 0
        """Vectors added and removed since the graph's file was written."""

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return self._columns.nbytes + (self._graph.nbytes if self._graph else 0)

    @property
    def graph(self) -> Graph | None:
        """The graph of a large scope."""
        return self._graph

    def load(self, folder: Path, rows: Rows, pictures: int, exact_below: int) -> None:
        """Read the scope from SQLite, and a graph from its file where there is one. Inside a snapshot."""
        if pictures < exact_below:
            vectors = (
                vector
                for ids, raw in rows.vectors(self.number, 0, 1000)
                for vector in np.frombuffer(raw, "<f2").reshape(len(ids), -1).astype(np.float32)
            )
            for fields, vector in zip(rows.fields(self.number), vectors, strict=True):
                self._columns.add(fields, vector)
            return
        self._columns.drop_vectors()
        for fields in rows.fields(self.number):
            self._columns.add(fields)
        self._graph, from_file = restored(folder, rows, self.number, self._dimensions, pictures)
        self.changes = 0 if from_file else len(self._graph)

    def grown(self) -> Graph:
        """A graph of all vectors, for a scope that has become large. It takes seconds, and changes nothing."""
        graph = Graph(self._dimensions)
        ids, vectors = self._columns.all_vectors()
        graph.add(ids, vectors)
        return graph

    def use(self, graph: Graph) -> None:
        """Search by the graph from now on."""
        self._graph = graph
        self._columns.drop_vectors()
        self.changes = len(graph)

    def add(self, fields: Fields, raw: bytes) -> None:
        """Add a picture, or replace what people filter by."""
        if self._graph is None:
            self._columns.add(fields, halves(raw).astype(np.float32))
            return
        self._columns.add(fields)
        if not self._graph.holds(fields.id):
            self._graph.add(np.array([fields.id], np.int64), halves(raw)[None])
            self.changes += 1

    def remove(self, ids: Sequence[int]) -> None:
        """Remove pictures."""
        self._columns.remove(ids)
        if self._graph is not None:
            self._graph.remove(ids)
            self.changes += len(ids)

    def nearest(self, query: Floats, count: int, where: Where) -> tuple[Ids, Floats]:
        """The ids and similarities of up to `count` pictures that pass the filter, in no particular order."""
        if self._graph is None:
            return self._columns.nearest(query, count, where)
        asked = count + _SLACK
        if where.selects:
            passing = self._columns.ids(where)
            if len(passing) <= _COMPARED:
                return _best(passing, self._compare(query, passing), count)
            asked = int(1.2 * count * len(self) / len(passing)) + _SLACK
        while asked <= _MOST_ASKED or asked == count + _SLACK:
            ids, similar = self._graph.search(query, min(asked, len(self)))
            passed = self._columns.let_through(ids, where)
            if passed.sum() >= count or asked >= len(self):
                return ids[passed][:count], similar[passed][:count]
            asked *= 3
        passing = self._columns.ids(where)
        return _best(passing, self._compare(query, passing), count)

    def passing(self, ids: Sequence[int], where: Where) -> list[int]:
        """Those of the pictures that pass the filter, in their order."""
        these = np.array(ids, np.int64)
        return [int(each) for each in these[self._columns.let_through(these, where)]]

    def _compare(self, query: Floats, ids: Ids) -> Floats:
        if self._graph is None or not len(ids):
            return np.zeros(0, np.float32)
        return self._graph.similarities(query, ids)


def _best(ids: Ids, similar: Floats, count: int) -> tuple[Ids, Floats]:
    if len(ids) <= count:
        return ids, similar
    best = np.argpartition(similar, -count)[-count:]
    return ids[best], similar[best]
