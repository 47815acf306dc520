"""Brings owed images into the index, and takes unwanted ones out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from PIL import Image, UnidentifiedImageError
from store.pictures import PictureOutbox

from contracts.blobs import BlobStore
from contracts.clock import Clock
from contracts.errors import ImageNotFound
from contracts.pictures import Embedding, PictureRecord
from search.embedder import Embedder, decoded
from search.index import PictureIndex
from telemetry import metrics
from telemetry.logs import get_logger

EXPIRED: Final = 1_000
"""Most expired images that one look removes."""

log = get_logger(__name__)


class Indexer:
    """Each method may run again with the same arguments: the index knows images by scope and name."""

    def __init__(
        self, outbox: PictureOutbox, index: PictureIndex, embedder: Embedder, blobs: BlobStore, clock: Clock
    ) -> None:
        self._outbox = outbox
        self._index = index
        self._embedder = embedder
        self._blobs = blobs
        self._clock = clock

    async def add(self, job_ids: Sequence[str]) -> int:
        """Put the images of these jobs into the index, and settle the duties. Answers how many.

        Raises `UnavailableError`: the duties fall due again.
        """
        records = await self._outbox.read(job_ids)
        ready = await self.embedded(records)
        await self._index.put(ready)
        await self._outbox.settle(job_ids)
        now = self._clock.now()
        for record in ready:
            metrics.SEARCH_LATENESS.observe(max(0.0, now - record.created_at))
        metrics.SEARCH_INDEXED.labels("added").inc(len(ready))
        return len(ready)

    async def embedded(self, records: Sequence[PictureRecord]) -> list[PictureRecord]:
        """The records with embeddings of this index's CLIP. Those that no file is left of are left out."""
        outcomes = await asyncio.gather(*(self._embedded(record) for record in records))
        return [record for record in outcomes if record is not None]

    async def expire(self) -> int:
        """Take out images whose time is over. Answers how many."""
        gone = await self._index.expire(self._clock.now(), EXPIRED)
        metrics.SEARCH_INDEXED.labels("expired").inc(gone)
        return gone

    async def forget(self) -> int:
        """Take out images that were deleted elsewhere. Answers how many."""
        removed = 0
        while unwanted := await self._outbox.unwanted(EXPIRED):
            for scope, names in _by_scope(unwanted).items():
                removed += await self._index.delete(scope, names)
            await self._outbox.forgotten(unwanted)
        metrics.SEARCH_INDEXED.labels("deleted").inc(removed)
        return removed

    async def _embedded(self, record: PictureRecord) -> PictureRecord | None:
        if record.embedding is not None and record.embedding.model == self._embedder.name:
            return record
        try:
            image = await asyncio.to_thread(decoded, await self._blobs.get(record.name))
        except ImageNotFound:
            metrics.SEARCH_INDEXED.labels("lost").inc()
            return None
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            log.error("picture_unreadable", name=record.name)
            metrics.SEARCH_INDEXED.labels("unreadable").inc()
            return None
        vector = await self._embedder.image(image)
        return record.model_copy(
            update={"embedding": Embedding.of(self._embedder.name, vector.astype("<f2").tobytes())}
        )


def _by_scope(unwanted: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    scopes: dict[str, list[str]] = {}
    for scope, name in unwanted:
        scopes.setdefault(scope, []).append(name)
    return scopes
