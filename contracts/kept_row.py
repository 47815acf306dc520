"""A row of what the platform stores. `contracts/kept.py` has the rows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase


class Place(StrEnum):
    """Where the data is."""

    STATE = "state Redis"
    CACHE = "cache Redis"
    PICTURES = "blob store"
    BROKER = "broker"
    INDEX = "search index"


@dataclass(frozen=True, slots=True)
class Kept:
    """One row.

    `patterns` are SCAN patterns for the names of keys, of files under the folder or in the bucket, of
    queues, or of tables. `store` is the field of `store.stores.Stores`, `broker` for queues, or `index`. The other fields are text
    for people.
    """

    what: str
    place: Place
    store: str
    patterns: tuple[str, ...]
    until: str
    backup: str
    versions: str
    erased: str
    bound: str

    def covers(self, name: str) -> bool:
        """Whether `name`, of a key, file, queue or table, belongs to this row."""
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)
