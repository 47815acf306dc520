"""Vectors of images by the re-ranker, by the images' names: in memory, or in a file that the next start finds.

It is a cache: what is lost is computed again. A file of another model is emptied, a damaged one replaced.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar

from contracts.errors import SettingsError

KEPT_S: Final = 7 * 86_400.0
"""A vector that no search has used for so long is deleted: its image may be gone."""
BUSY_S: Final = 0.2
"""How long to wait for another process that writes to the file."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS model (name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (name TEXT PRIMARY KEY, vector BLOB NOT NULL, used REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON vectors (used);
"""

_READ: Final = "SELECT name, vector FROM vectors WHERE name IN (SELECT value FROM json_each(?))"
_USE: Final = "UPDATE vectors SET used = ? WHERE name IN (SELECT value FROM json_each(?))"

T = TypeVar("T")


class VectorCache:
    """The vectors of one model, `name@revision`: at most `limit`, those that were used last.

    `path`: the file; None: in memory. `now` answers Unix seconds. Every method may be called from any
    thread. Raises `SettingsError` where the file cannot be written.
    """

    def __init__(self, path: Path | None, clip: str, limit: int, now: Callable[[], float]) -> None:
        self._limit = limit
        self._now = now
        self._lock = Lock()
        try:
            self._database = _opened(path, clip)
        except (OSError, sqlite3.OperationalError) as error:
            raise SettingsError(
                f"DARKROOM_RERANK_CACHE={path}: the file cannot be written: {error}."
            ) from error

    def get(self, names: Sequence[str]) -> dict[str, bytes]:
        """The vectors of those images that have one here."""

        def read() -> dict[str, bytes]:
            listed = json.dumps(list(names))
            found = dict(self._database.execute(_READ, (listed,)))
            self._database.execute(_USE, (self._now(), listed))
            return found

        return self._within(read, {})

    def put(self, vectors: Mapping[str, bytes]) -> None:
        """Keep the vectors. Those that were used longest ago make room."""

        def write() -> None:
            now = self._now()
            rows = [(name, vector, now) for name, vector in vectors.items()]
            self._database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
            self._database.execute("DELETE FROM vectors WHERE used < ?", (now - KEPT_S,))
            ((count,),) = self._database.execute("SELECT count(*) FROM vectors")
            self._database.execute(
                "DELETE FROM vectors WHERE name IN (SELECT name FROM vectors ORDER BY used LIMIT ?)",
                (max(0, count - self._limit),),
            )

        self._within(write, None)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _within(self, work: Callable[[], T], otherwise: T) -> T:
        """What `work` answers. `otherwise`, where the file fails, or another process has it for too long."""
        with self._lock, suppress(sqlite3.Error), self._database:
            return work()
        return otherwise


def _opened(path: Path | None, clip: str) -> sqlite3.Connection:
    if path is None:
        return _prepared(":memory:", clip)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _prepared(str(path), clip)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # no database, or a damaged one
        path.unlink()
        return _prepared(str(path), clip)


def _prepared(place: str, clip: str) -> sqlite3.Connection:
    """The database, with no vector of another model."""
    database = sqlite3.connect(place, timeout=BUSY_S, check_same_thread=False)
    try:
        # What a crash loses is computed again.
        database.execute("PRAGMA synchronous = OFF")
        database.executescript(_SCHEMA)
        with database, closing(database.cursor()) as cursor:
            rows: list[Any] = cursor.execute("SELECT name FROM model").fetchall()
            if rows != [(clip,)]:
                cursor.execute("DELETE FROM vectors")
                cursor.execute("DELETE FROM model")
                cursor.execute("INSERT INTO model VALUES (?)", (clip,))
    except BaseException:
        database.close()
        raise
    return database
