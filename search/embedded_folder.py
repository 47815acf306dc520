"""The folder of an embedded index: what is in it, in memory and on disk, and every change to it.

Used by two threads. One makes all changes. The other reads through `reads` and `in_memory`, and holds
`guard` while it looks at what is in memory.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from contracts.errors import StoreUnavailable
from contracts.pictures import PictureRecord
from search import vectors
from search.embedded_rows import SCHEMA, Rows, connect, fields_of
from search.embedded_scope import ScopeInMemory
from search.index import REBUILD, IndexBusy, IndexDamaged, IndexMismatch
from telemetry.logs import get_logger

log = get_logger(__name__)

DATABASE: Final = "pictures.sqlite3"
_LOCK: Final = "lock"
_TOGETHER: Final = 16
"""Records that are put into memory under one hold of the lock."""
_ERASED: Final = 500
_SAVE_AFTER: Final = 10_000
_SAVE_SHARE: Final = 0.2
"""A graph is written once so many vectors, and this share of them, have changed."""


class IndexFolder:
    """The index of one CLIP model in a folder, which is taken by `open`. For the arguments, see `EmbeddedIndex`."""

    def __init__(self, folder: Path, clip: str, dimensions: int, exact_below: int, small_bytes: int) -> None:
        self.folder = folder
        self.dimensions = dimensions
        self._clip = clip
        self._exact_below = exact_below
        self._small_bytes = small_bytes
        self._lock_file: int | None = None
        self._databases: list[sqlite3.Connection] = []
        self.guard = threading.Lock()
        self.scopes: dict[int, ScopeInMemory] = {}
        """By their numbers, the one used last at the end."""

    def open(self, fresh: bool) -> None:
        """Take the folder for this process, and read its large scopes. Raises as `PictureIndex.open`."""
        self.folder.mkdir(0o700, parents=True, exist_ok=True)  # it has the prompts of all tenants
        self._lock_file = os.open(self.folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise IndexBusy(f"Another process has the search index in {self.folder} open.") from None
        database = self.folder / DATABASE
        if fresh:
            for path in (*self.folder.glob(f"{DATABASE}*"), *self.folder.glob("vectors-*")):
                path.unlink()
        elif database.exists() and not database.stat().st_size:
            raise IndexDamaged(
                f"The search index in {self.folder} is damaged: {DATABASE} is empty. {REBUILD}"
            )
        self._databases = [connect(database)]
        self._databases.append(connect(database, reads_only=True))
        self._writes, self.reads = map(Rows, self._databases)
        self._claim()
        for number, pictures in self._writes.sizes().items():
            if pictures >= self._exact_below:
                self.in_memory(number, self._writes)
            elif self._writes.vector_file(number):
                self._writes.set_vector_file(number, None, self._writes.removed(number))
        self._sweep()

    def _claim(self) -> None:
        """Make a new index ours, or check that it is. Raises `IndexMismatch`."""
        ours = {"clip": self._clip, "dimensions": str(self.dimensions), "schema": str(SCHEMA)}
        found = self._writes.meta()
        if not found:
            with self._writes.transaction():
                self._writes.set_meta(ours)
        elif found != ours:
            raise IndexMismatch(
                f"The search index in {self.folder} holds vectors of {found.get('clip')} with {found.get('dimensions')} "
                f"dimensions (format {found.get('schema')}), and not of {self._clip} with {self.dimensions} "
                f"(format {SCHEMA}). {REBUILD}"
            )

    def _sweep(self) -> None:
        """Delete files that an earlier process left behind."""
        known = self._writes.files()
        for path in self.folder.glob("vectors-*"):
            if path.name not in known:
                path.unlink(missing_ok=True)

    def in_memory(self, number: int, rows: Rows) -> ScopeInMemory:
        """The scope's pictures in memory, read now if they were not."""
        with self.guard:
            found = self.scopes.pop(number, None)
            if found is None:
                found = ScopeInMemory(number, self.dimensions)
                with rows.snapshot():
                    found.load(self.folder, rows, rows.sizes()[number], self._exact_below)
                self._make_room(found.nbytes)
            self.scopes[number] = found  # the last one is the one used last
            return found

    def _make_room(self, wanted: int) -> None:
        """Let go of small scopes, of which SQLite has everything."""
        small = {number: scope.nbytes for number, scope in self.scopes.items() if scope.graph is None}
        held = sum(small.values())
        for number, size in small.items():
            if held + wanted <= self._small_bytes:
                return
            del self.scopes[number]
            held -= size

    def put(self, records: Sequence[PictureRecord]) -> None:
        """Add or replace pictures without faults, of different keys."""
        with self._writes.transaction():
            written = [(self._writes.put(record), record) for record in records]
        scopes = {each.scope: self.in_memory(each.scope, self._writes) for each, _ in written}
        for at in range(0, len(written), _TOGETHER):
            with self.guard:
                for each, record in written[at : at + _TOGETHER]:
                    scopes[each.scope].remove(each.replaced)
                    scopes[each.scope].add(fields_of(record, each.picture), vectors.raw_of(record))
        self._grow_and_save(scopes.values())

    def delete(self, scope: str, names: Sequence[str]) -> int:
        """Delete pictures. Returns how many there were."""
        number = self._writes.scope_ids([scope]).get(scope)
        return 0 if number is None else self._forget({number: names})

    def expire(self, now: float, limit: int) -> int:
        """Delete up to `limit` pictures that have expired at `now`. Returns how many."""
        return self._forget(self._writes.expired(now, limit))

    def erase_some(self, scope: str) -> int:
        """Delete some pictures of the scope. Returns how many; zero: none are left."""
        number = self._writes.scope_ids([scope]).get(scope)
        return 0 if number is None else self._forget({number: self._writes.names(number, _ERASED)})

    def _forget(self, names: Mapping[int, Sequence[str]]) -> int:
        with self._writes.transaction():
            gone = {number: self._writes.delete(number, each) for number, each in names.items()}
        with self.guard:
            touched = [scope for number in gone if (scope := self.scopes.get(number)) is not None]
            for scope in touched:
                scope.remove(gone[scope.number])
        self._grow_and_save(touched)
        return sum(map(len, gone.values()))

    def _grow_and_save(self, scopes: Collection[ScopeInMemory]) -> None:
        """Make graphs of scopes that have become large, and write those that have changed much."""
        for scope in scopes:
            if scope.graph is None and len(scope) >= self._exact_below:
                graph = scope.grown()  # queries go on meanwhile: only this thread changes the scope
                with self.guard:
                    scope.use(graph)
        try:
            self._save(scopes, _SAVE_AFTER, _SAVE_SHARE)
        except OSError as error:
            # The pictures are in SQLite, and the next start adds them to the graph of the last file.
            log.warning("search.graph_not_written", error=str(error))

    def save_all(self) -> None:
        """Write all graphs that have changed."""
        with self.guard:
            scopes = list(self.scopes.values())
        self._save(scopes, 0, 0.0)

    def disk_bytes(self) -> int:
        """The size of all files."""
        total = 0
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # it was replaced meanwhile
                total += path.stat().st_size
        return total

    def memory_bytes(self) -> int:
        """The memory of all scopes that are in it."""
        with self.guard:
            return sum(scope.nbytes for scope in self.scopes.values())

    def _save(self, scopes: Iterable[ScopeInMemory], changes: int, share: float) -> None:
        """Write the graphs of which more than `changes` vectors and more than `share` of them have changed."""
        for scope in scopes:
            if scope.graph is None or scope.changes <= max(changes, share * len(scope)):
                continue
            scope.changes = 0
            removed = self._writes.removed(scope.number)
            upto = self._writes.last_id()
            name = f"vectors-{scope.number}-{secrets.token_hex(4)}.usearch"
            size, checksum = scope.graph.save(self.folder / name)
            self._writes.set_vector_file(scope.number, (name, size, checksum, upto), removed)
            self._sweep()

    def close(self, flush: bool) -> None:
        """Let go of the folder. `flush`: write the graphs first."""
        try:
            if flush and self._databases:
                self.save_all()
        except (OSError, StoreUnavailable, IndexDamaged) as error:
            # The next start makes the graphs from SQLite.
            log.warning("search.graph_not_written", error=str(error))
        finally:
            for database in self._databases:
                database.close()
            self._databases = []
            self.scopes = {}
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None
