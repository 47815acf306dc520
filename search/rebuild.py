"""Fills an index from the records in the store: a new or moved index, or one that lost its files.

Images that end meanwhile come in by the outbox as always. To put an image twice changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final
from urllib.parse import urlsplit

from contracts.ports.clock import Clock
from contracts.ports.picture_outbox import PictureOutbox
from contracts.ports.rebuild_store import RebuildStore
from contracts.search import Rebuild
from search.index import PictureIndex
from search.indexer import Indexer
from telemetry.logs import get_logger

PAUSE_S: Final = 0.005
"""Seconds between two pages: searches and new images go on."""

log = get_logger(__name__)


def index_name(setting: str, clip: str) -> str:
    """What a rebuild is recorded under: the index of the setting, without its password, and its model."""
    place = urlsplit(setting)
    bare = f"{place.scheme}://{place.hostname}:{place.port}{place.path}|{clip}"
    return hashlib.sha256(bare.encode()).hexdigest()[:16]


class Rebuilder:
    """Rebuilds one index. `name` is its `index_name`."""

    def __init__(
        self,
        outbox: PictureOutbox,
        index: PictureIndex,
        indexer: Indexer,
        rebuilds: RebuildStore,
        clock: Clock,
        name: str,
    ) -> None:
        self._outbox = outbox
        self._index = index
        self._indexer = indexer
        self._rebuilds = rebuilds
        self._clock = clock
        self._name = name
        self._asked = asyncio.Event()
        self.progress: Rebuild | None = None
        """The last rebuild of this index; None: there was none."""

    def ask(self) -> None:
        """Begin a rebuild, or let the one that runs go on."""
        self._asked.set()

    async def begin(self) -> None:
        """Ask for a rebuild where one is due: it was interrupted, or the index is empty. Raises `UnavailableError`."""
        self.progress = await self._rebuilds.get(self._name)
        unfinished = self.progress is not None and self.progress.finished_at is None
        if unfinished or not await self._index.count():
            self.ask()

    async def work(self) -> None:
        """Run the rebuild that was asked for, if there is one. Raises `UnavailableError`; the next call goes on."""
        if not self._asked.is_set():
            return
        rebuild = self.progress
        if rebuild is None or rebuild.finished_at is not None:
            rebuild = Rebuild(started_at=self._clock.now())
            log.info("rebuild_started")
        while True:
            cursor, records = await self._outbox.scan(rebuild.cursor)
            added = await self._indexer.put(records)
            await self._indexer.delete_erased(added)
            rebuild = rebuild.model_copy(update={"cursor": cursor, "seen": rebuild.seen + len(records)})
            if not cursor:
                break
            self.progress = rebuild
            await self._rebuilds.put(self._name, rebuild)
            await asyncio.sleep(PAUSE_S)
        self.progress = rebuild.model_copy(update={"finished_at": self._clock.now()})
        await self._rebuilds.put(self._name, self.progress)
        self._asked.clear()
        log.info("rebuild_finished", records=rebuild.seen)
