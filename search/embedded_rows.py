"""The truth of the embedded index: an SQLite database with each picture's record, vector and words.

The vector indexes in memory and on disk are caches of it. Each scope has a number, and each term is
stored as `<number>x<term>`. A query by words thus reads the entries of its own scopes alone, and the
frequency of a word in another scope changes no score.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from contracts.errors import StoreFull, StoreUnavailable
from contracts.pictures import Embedding, PictureRecord
from search import words
from search.embedded_columns import NO_SEED, Fields, conditions
from search.index import REBUILD, IndexDamaged, Key, Place
from search.vectors import is_scope, raw_of
from search.where import Where

SCHEMA: Final = 1
"""The version of the tables. An index of another version is built again."""
_BUSY_S: Final = 10.0
_CHUNK: Final = 500
_CACHE_KIB: Final = 65_536
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scopes (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, pictures INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS pictures (
  id INTEGER PRIMARY KEY AUTOINCREMENT, scope INTEGER NOT NULL, name TEXT NOT NULL, created REAL NOT NULL, expires REAL NOT NULL,
  seed INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL, model TEXT NOT NULL, lora TEXT NOT NULL,
  imported INTEGER NOT NULL, UNIQUE (scope, name));
CREATE INDEX IF NOT EXISTS expiry ON pictures (expires);
CREATE INDEX IF NOT EXISTS newest ON pictures (scope, created DESC, name);
CREATE TABLE IF NOT EXISTS payloads (id INTEGER PRIMARY KEY, record TEXT NOT NULL, vector BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS removed (id INTEGER PRIMARY KEY, scope INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS vector_files (
  scope INTEGER PRIMARY KEY, file TEXT NOT NULL, bytes INTEGER NOT NULL, checksum INTEGER NOT NULL, upto INTEGER NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(terms, content='', detail='none', columnsize=0, tokenize='ascii');
CREATE VIRTUAL TABLE IF NOT EXISTS frequencies USING fts5vocab('words', 'row');
"""
_FIELDS: Final = "id, created, expires, seed, width, height, model, lora, imported"


@contextmanager
def sqlite_errors() -> Iterator[None]:
    """Turns SQLite's errors into ours. Raises `IndexDamaged`, `StoreFull`, `StoreUnavailable`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise StoreFull("The search index has no room on its disk.") from error
        if "malformed" in str(error) or "corrupt" in str(error):
            raise _damaged(error) from error
        raise StoreUnavailable(f"The search index cannot be used: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> IndexDamaged:
    return IndexDamaged(f"The search index is damaged: {error}. {REBUILD}")


def connect(path: Path, *, reads_only: bool = False) -> sqlite3.Connection:
    """A connection to the database, made if it is not there. Used by one thread at a time. Raises as `sqlite_errors`."""
    with sqlite_errors():
        database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA secure_delete = ON")
            database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            if reads_only:
                database.execute("PRAGMA query_only = ON")
            elif database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("its pages do not fit together")
            else:
                database.executescript(_TABLES)
        except BaseException:
            database.close()
            raise
        return database


class Written(NamedTuple):
    """A picture that was put: its scope's number, its id, and the ids that it replaced. A new vector gets a new id."""

    scope: int
    picture: int
    replaced: list[int]


class Rows:
    """The rows of an index, through one connection."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what is written inside. Raises as `sqlite_errors`."""
        with sqlite_errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read inside is of one moment. Raises as `sqlite_errors`."""
        with sqlite_errors():
            self._database.execute("BEGIN")
            try:
                yield
            finally:
                self._database.execute("COMMIT")

    def meta(self) -> dict[str, str]:
        """What the index says of itself: `clip`, `dimensions`, `schema`. Empty: it is new."""
        with sqlite_errors():
            return dict(self._database.execute("SELECT key, value FROM meta").fetchall())

    def set_meta(self, values: Mapping[str, str]) -> None:
        """Write what the index says of itself. Inside a transaction."""
        self._database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    def scope_ids(self, scopes: Iterable[str]) -> dict[str, int]:
        """The numbers of those of the scopes that the index knows."""
        found = {}
        with sqlite_errors():
            for scope in filter(is_scope, dict.fromkeys(scopes)):
                row = self._database.execute("SELECT id FROM scopes WHERE name = ?", (scope,)).fetchone()
                if row:
                    found[scope] = int(row[0])
        return found

    def sizes(self) -> dict[int, int]:
        """How many pictures each scope has, by its number."""
        with sqlite_errors():
            return dict(self._database.execute("SELECT id, pictures FROM scopes").fetchall())

    def put(self, record: PictureRecord) -> Written:
        """Add or replace a picture. Inside a transaction."""
        scope = self._scope_id(record.scope)
        raw = raw_of(record)
        text = _text_of(record)
        old = self._database.execute(
            "SELECT id, record, vector FROM pictures JOIN payloads USING (id) WHERE scope = ? AND name = ?",
            (scope, record.name),
        ).fetchone()
        if old and old[2] == raw:
            if old[1] != text:
                self._unword(scope, old[0], old[1])
                self._write(scope, old[0], record, text, raw)
            return Written(scope, old[0], [])
        replaced = self.delete(scope, [record.name]) if old else []
        self._database.execute("UPDATE scopes SET pictures = pictures + 1 WHERE id = ?", (scope,))
        return Written(scope, self._write(scope, None, record, text, raw), replaced)

    def delete(self, scope: int, names: Sequence[str]) -> list[int]:
        """Delete pictures. Inside a transaction. Returns the ids of those that were there."""
        gone = []
        for name in names:
            row = self._database.execute(
                "SELECT id, record FROM pictures JOIN payloads USING (id) WHERE scope = ? AND name = ?",
                (scope, name),
            ).fetchone()
            if row:
                self._unword(scope, row[0], row[1])
                self._database.execute("DELETE FROM pictures WHERE id = ?", (row[0],))
                self._database.execute("DELETE FROM payloads WHERE id = ?", (row[0],))
                self._database.execute(
                    "INSERT INTO removed SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM vector_files WHERE scope = ?2)",
                    (row[0], scope),
                )
                gone.append(int(row[0]))
        self._database.execute("UPDATE scopes SET pictures = pictures - ? WHERE id = ?", (len(gone), scope))
        return gone

    def expired(self, now: float, limit: int) -> dict[int, list[str]]:
        """The names of up to `limit` pictures that have expired, by their scope's number; the longest expired first."""
        found: dict[int, list[str]] = {}
        with sqlite_errors():
            rows = self._database.execute(
                "SELECT scope, name FROM pictures WHERE expires <= ? ORDER BY expires LIMIT ?", (now, limit)
            )
            for scope, name in rows:
                found.setdefault(scope, []).append(name)
        return found

    def names(self, scope: int, limit: int) -> list[str]:
        """The names of up to `limit` pictures of the scope."""
        with sqlite_errors():
            rows = self._database.execute("SELECT name FROM pictures WHERE scope = ? LIMIT ?", (scope, limit))
            return [row[0] for row in rows]

    def keys(self, ids: Sequence[int], scopes: Mapping[int, str]) -> dict[int, Key]:
        """The keys of the pictures of these ids that are there and in one of the scopes, by id."""
        found: dict[int, Key] = {}
        with sqlite_errors():
            for chunk in _chunks(ids):
                marks = ",".join("?" * len(chunk))
                rows = self._database.execute(
                    f"SELECT id, scope, name FROM pictures WHERE id IN ({marks})",  # noqa: S608 - marks alone
                    chunk,
                )
                found |= {row[0]: Key(scopes[row[1]], row[2]) for row in rows if row[1] in scopes}
        return found

    def record(self, scope: int, name: str) -> PictureRecord | None:
        """The record of a picture; None: there is none."""
        with sqlite_errors():
            row = self._database.execute(
                "SELECT record, vector FROM pictures JOIN payloads USING (id) WHERE scope = ? AND name = ?",
                (scope, name),
            ).fetchone()
        return _record_of(*row) if row else None

    def prompts(self, ids: Sequence[int]) -> dict[int, str]:
        """The prompts of the pictures of these ids, by id."""
        found: dict[int, str] = {}
        with sqlite_errors():
            for chunk in _chunks(ids):
                marks = ",".join("?" * len(chunk))
                rows = self._database.execute(
                    f"SELECT id, record ->> '$.prompt' FROM payloads WHERE id IN ({marks})",  # noqa: S608
                    chunk,
                )
                found |= dict(rows.fetchall())
        return found

    def frequency(self, scope: int, term: str) -> int:
        """How many pictures of the scope have the term."""
        with sqlite_errors():
            row = self._database.execute(
                "SELECT doc FROM frequencies WHERE term = ?", (f"{scope}x{term}",)
            ).fetchone()
        return int(row[0]) if row else 0

    def having(self, scope: int, together: Sequence[str], limit: int) -> list[int]:
        """The ids of up to `limit` pictures of the scope that have all of the terms, newest first."""
        query = " AND ".join(f'"{scope}x{term}"' for term in together)
        with sqlite_errors():
            rows = self._database.execute(
                "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid DESC LIMIT ?", (query, limit)
            )
            return [row[0] for row in rows]

    def newest(self, scope: int, count: int, where: Where, before: Place | None) -> list[tuple[str, float]]:
        """Name and time of creation of up to `count` pictures of the scope, in the order of `PictureIndex.newest`."""
        parts, values = conditions(where)
        if before is not None:
            parts.append("(created < ? OR (created = ? AND name > ?))")
            values += [before.created_at, before.created_at, before.name]
        condition = "".join(f" AND {part}" for part in parts)
        with sqlite_errors():
            rows = self._database.execute(
                f"SELECT name, created FROM pictures WHERE scope = ?{condition} "  # noqa: S608 - constants
                "ORDER BY created DESC, name LIMIT ?",
                (scope, *values, count),
            )
            return rows.fetchall()

    def fields(self, scope: int) -> Iterator[Fields]:
        """What people filter by, of all pictures of the scope, in the order of their ids."""
        with sqlite_errors():
            yield from map(
                Fields._make,
                self._database.execute(
                    f"SELECT {_FIELDS} FROM pictures WHERE scope = ? ORDER BY id",  # noqa: S608 - a constant
                    (scope,),
                ),
            )

    def vectors(self, scope: int, after: int, batch: int) -> Iterator[tuple[list[int], bytes]]:
        """Ids above `after` of the scope's pictures with their vectors joined to one string, in order, batch by batch."""
        with sqlite_errors():
            rows = self._database.execute(
                "SELECT id, vector FROM pictures JOIN payloads USING (id) WHERE scope = ? AND id > ? ORDER BY id",
                (scope, after),
            )
            while found := rows.fetchmany(batch):
                yield [row[0] for row in found], b"".join(row[1] for row in found)

    def last_id(self) -> int:
        """The highest id that was ever given."""
        with sqlite_errors():
            row = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'pictures'").fetchone()
        return int(row[0]) if row else 0

    def removed(self, scope: int) -> list[int]:
        """Ids of deleted pictures that a file of vectors may still hold."""
        with sqlite_errors():
            return [
                row[0] for row in self._database.execute("SELECT id FROM removed WHERE scope = ?", (scope,))
            ]

    def vector_file(self, scope: int) -> tuple[str, int, int, int] | None:
        """Name, size, checksum and highest id of the file with the scope's vectors; None: there is none."""
        with sqlite_errors():
            row: tuple[str, int, int, int] | None = self._database.execute(
                "SELECT file, bytes, checksum, upto FROM vector_files WHERE scope = ?", (scope,)
            ).fetchone()
            return row

    def set_vector_file(
        self, scope: int, entry: tuple[str, int, int, int] | None, forget: Sequence[int]
    ) -> None:
        """Note the file with the scope's vectors, or that there is none. `forget`: removed ids that it does not hold."""
        with self.transaction():
            if entry is None:
                self._database.execute("DELETE FROM vector_files WHERE scope = ?", (scope,))
            else:
                self._database.execute("REPLACE INTO vector_files VALUES (?, ?, ?, ?, ?)", (scope, *entry))
            self._database.executemany("DELETE FROM removed WHERE id = ?", [(each,) for each in forget])

    def files(self) -> set[str]:
        """The names of all files of vectors that the index knows."""
        with sqlite_errors():
            return {row[0] for row in self._database.execute("SELECT file FROM vector_files")}

    def _scope_id(self, scope: str) -> int:
        self._database.execute("INSERT OR IGNORE INTO scopes (name) VALUES (?)", (scope,))
        (number,) = self._database.execute("SELECT id FROM scopes WHERE name = ?", (scope,)).fetchone()
        return int(number)

    def _write(self, scope: int, picture: int | None, record: PictureRecord, text: str, raw: bytes) -> int:
        fields = fields_of(record, picture or 0)
        cursor = self._database.execute(
            "INSERT OR REPLACE INTO pictures (id, created, expires, seed, width, height, model, lora, imported, scope, name) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (picture, *fields[1:], scope, record.name),
        )
        found = picture or cursor.lastrowid or 0
        self._database.execute("INSERT OR REPLACE INTO payloads VALUES (?, ?, ?)", (found, text, raw))
        if joined := _joined(scope, record.prompt):
            self._database.execute("INSERT INTO words (rowid, terms) VALUES (?, ?)", (found, joined))
        return found

    def _unword(self, scope: int, picture: int, text: str) -> None:
        if joined := _joined(scope, json.loads(text)["prompt"]):
            self._database.execute(
                "INSERT INTO words (words, rowid, terms) VALUES ('delete', ?, ?)", (picture, joined)
            )


def fields_of(record: PictureRecord, picture: int) -> Fields:
    """What people filter by, of one record."""
    return Fields(
        picture,
        record.created_at,
        record.expires_at,
        NO_SEED if record.seed is None else record.seed,
        record.width,
        record.height,
        record.model,
        record.lora,
        record.source == "imported",
    )


def _joined(scope: int, prompt: str) -> str:
    return " ".join(f"{scope}x{term}" for term in words.terms(prompt))


def _text_of(record: PictureRecord) -> str:
    return record.model_copy(
        update={"embedding": Embedding(model=_clip_of(record), vector="")}
    ).model_dump_json()


def _record_of(text: str, raw: bytes) -> PictureRecord:
    record = PictureRecord.model_validate_json(text)
    return record.model_copy(update={"embedding": Embedding.of(_clip_of(record), raw)})


def _clip_of(record: PictureRecord) -> str:
    return record.embedding.model if record.embedding else ""


def _chunks(ids: Sequence[int]) -> Iterator[list[int]]:
    for at in range(0, len(ids), _CHUNK):
        yield list(ids[at : at + _CHUNK])
