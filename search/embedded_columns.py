"""What people filter by, of all pictures of one scope, in memory: one array for each field.

A filter over a million pictures takes some milliseconds here. Rows are in the order of their ids. A
deleted picture's row stays, marked as gone, until a quarter of the rows are gone. A small scope has its
vectors here too, for exact search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from search.vectors import Floats
from search.where import Where

Ids: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

_ROW: Final = np.dtype(
    [
        ("id", "i8"),
        ("created", "f8"),
        ("expires", "f8"),
        ("seed", "i8"),
        ("width", "i4"),
        ("height", "i4"),
        ("model", "i4"),
        ("lora", "i4"),
        ("imported", "?"),
        ("gone", "?"),
    ]
)
_FIRST: Final = 64
_COPIED: Final = 4
"""Vectors are copied and then compared if at most one in so many passes the filter."""
NO_SEED: Final = -1


class Fields(NamedTuple):
    """One picture's row. `seed` is `NO_SEED` if it has none."""

    id: int
    created: float
    expires: float
    seed: int
    width: int
    height: int
    model: str
    lora: str
    imported: bool


class Columns:
    """The rows of one scope.

    `dimensions`: the length of the vectors that the rows have; zero: they have none.
    """

    def __init__(self, dimensions: int = 0) -> None:
        self._rows = np.zeros(_FIRST, _ROW)
        self._vectors: Floats = np.zeros((_FIRST, dimensions), np.float32)
        self._used = 0
        self._gone = 0
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return self._used - self._gone

    @property
    def nbytes(self) -> int:
        """The memory of the rows."""
        return self._rows.nbytes + self._vectors.nbytes

    def add(self, fields: Fields, vector: Floats | None = None) -> None:
        """Add a picture whose id is above all others, or replace the row of one that is there.

        `vector`: float32 of shape `(dimensions,)`, length 1; None: it stays as it is.
        """
        row = self._row(fields.id)
        if row is None:
            if self._used == len(self._rows):
                self._resize(self._used + max(_FIRST, self._used // 2))
            row = self._used
            self._used += 1
        codes = (self._code(fields.model), self._code(fields.lora))
        values = (fields.id, fields.created, fields.expires, fields.seed, fields.width, fields.height)
        self._rows[row] = (*values, *codes, fields.imported, False)
        if vector is not None:
            self._vectors[row] = vector

    def remove(self, ids: Sequence[int]) -> None:
        """Remove pictures. One that is not there is ignored."""
        for picture in ids:
            row = self._row(picture)
            if row is not None and not self._rows["gone"][row]:
                self._rows["gone"][row] = True
                self._gone += 1
        if self._gone * 4 > self._used:
            kept = ~self._rows["gone"][: self._used]
            left = int(kept.sum())
            self._rows[:left] = self._rows[: self._used][kept]
            self._vectors[:left] = self._vectors[: self._used][kept]
            self._used, self._gone = left, 0
            self._resize(left + _FIRST)

    def drop_vectors(self) -> None:
        """Keep no vectors from now on."""
        self._vectors = np.zeros((len(self._rows), 0), np.float32)

    def ids(self, where: Where) -> Ids:
        """The ids of all pictures that the filter lets through, in ascending order."""
        rows = self._rows[: self._used]
        return rows["id"][self._mask(rows, where)]

    def all_vectors(self) -> tuple[Ids, Floats]:
        """The ids and the vectors of all pictures."""
        kept = ~self._rows["gone"][: self._used]
        return self._rows["id"][: self._used][kept], self._vectors[: self._used][kept]

    def let_through(self, ids: Ids, where: Where) -> Mask:
        """Which of these ids belong to pictures that are there and that the filter lets through."""
        used = self._rows[: self._used]
        if not self._used:
            return np.zeros(len(ids), np.bool_)
        at = np.searchsorted(used["id"], ids)
        at[at == self._used] = 0
        rows = used[at]
        passing: Mask = (rows["id"] == ids) & self._mask(rows, where)
        return passing

    def nearest(self, query: Floats, count: int, where: Where) -> tuple[Ids, Floats]:
        """The ids and cosine similarities of the pictures nearest to the query: exact. In no particular order."""
        rows = self._rows[: self._used]
        near = np.flatnonzero(self._mask(rows, where))
        # To compare all is quicker than to copy most.
        similar: Floats = (
            self._vectors[near] @ query
            if len(near) * _COPIED < self._used
            else (self._vectors[: self._used] @ query)[near]
        )
        if len(near) > count:
            best = np.argpartition(similar, -count)[-count:]
            near, similar = near[best], similar[best]
        return rows["id"][near], similar

    def _mask(self, rows: npt.NDArray[np.void], where: Where) -> Mask:
        mask: Mask = ~rows["gone"]
        if where.alive_at is not None:
            mask &= rows["expires"] > where.alive_at
        if where.seed is not None:
            mask &= rows["seed"] == where.seed
        if where.source is not None:
            mask &= rows["imported"] == (where.source == "imported")
        for name, text in (("model", where.model), ("lora", where.lora)):
            if text is not None:
                mask &= rows[name] == self._codes.get(text, -1)
        for name, least, most in (
            ("width", where.min_width, where.max_width),
            ("height", where.min_height, where.max_height),
            ("created", where.created_from, where.created_to),
        ):
            if least is not None:
                mask &= rows[name] >= least
            if most is not None:
                mask &= rows[name] <= most
        return mask

    def _resize(self, rows: int) -> None:
        grown = np.zeros(rows, _ROW)
        grown[: self._used] = self._rows[: self._used]
        vectors = np.zeros((rows, self._vectors.shape[1]), np.float32)
        vectors[: self._used] = self._vectors[: self._used]
        self._rows, self._vectors = grown, vectors

    def _row(self, picture: int) -> int | None:
        at = int(np.searchsorted(self._rows["id"][: self._used], picture))
        return at if at < self._used and self._rows["id"][at] == picture else None

    def _code(self, text: str) -> int:
        return self._codes.setdefault(text, len(self._codes))


def conditions(where: Where) -> tuple[list[str], list[Any]]:
    """The filter as conditions of SQL, and their parameters."""
    given = (
        ("expires > ?", where.alive_at),
        ("width >= ?", where.min_width),
        ("width <= ?", where.max_width),
        ("height >= ?", where.min_height),
        ("height <= ?", where.max_height),
        ("created >= ?", where.created_from),
        ("created <= ?", where.created_to),
        ("seed = ?", where.seed),
        ("imported = ?", None if where.source is None else int(where.source == "imported")),
        ("model = ?", where.model),
        ("lora = ?", where.lora),
    )
    chosen = [(text, value) for text, value in given if value is not None]
    return [text for text, _ in chosen], [value for _, value in chosen]
