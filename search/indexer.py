"""Brings owed images into the index, and takes unwanted ones out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from PIL import Image, UnidentifiedImageError

from contracts.errors import ImageNotFound, StoreFull
from contracts.ids import SHARDS
from contracts.pictures import Embedding, PictureRecord, import_id
from contracts.ports.blob_store import BlobStore
from contracts.ports.clock import Clock
from contracts.ports.picture_outbox import PictureOutbox, Unwanted
from duties.dispatch import TAKEN_S
from search.embedder import Embedder, decoded
from search.index import PictureIndex
from telemetry import metrics
from telemetry.logs import get_logger

EXPIRED: Final = 1_000
"""Most images that one call removes."""

DECODED: Final = 32
"""Images that are decoded in memory at once: a batch of the embedder."""

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
        self._decoding = asyncio.Semaphore(DECODED)

    async def add(self, job_ids: Sequence[str]) -> int:
        """Put the images of these jobs or imports into the index, and settle the duties. Answers how many.

        Raises `UnavailableError`: the duties fall due again.
        """
        records = await self._outbox.read(job_ids)
        added = await self.put(records)
        await self._outbox.settle(job_ids)
        await self.delete_erased(added)
        now = self._clock.now()
        for record in added:
            metrics.SEARCH_LATENESS.observe(max(0.0, now - record.created_at))
        return len(added)

    async def put(self, records: Sequence[PictureRecord]) -> list[PictureRecord]:
        """Put records into the index, and answer those that it has now. Raises `UnavailableError`."""
        ready = await self.embedded(records)
        await self._record(records, ready)
        refused = {(refusal.scope, refusal.name) for refusal in await self._index.put(ready)}
        if refused:
            log.error("pictures_refused", count=len(refused))
            metrics.SEARCH_INDEXED.labels("refused").inc(len(refused))
        added = [record for record in ready if (record.scope, record.name) not in refused]
        metrics.SEARCH_INDEXED.labels("added").inc(len(added))
        return added

    async def delete_erased(self, added: Sequence[PictureRecord]) -> None:
        """Take out images whose records were erased while they were on their way. Raises `UnavailableError`."""
        jobs = {record.job_id for record in added if record.job_id is not None}
        left = {(record.job_id, record.name) for record in await self._outbox.read(jobs)}
        for record in added:
            if record.job_id is not None and (record.job_id, record.name) not in left:
                await self._index.delete(record.scope, [record.name])

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
        for shard in self._outbox.shards:
            while unwanted := await self._outbox.take_unwanted(shard, EXPIRED, TAKEN_S):
                for scope, names in _by_scope(unwanted).items():
                    removed += await self._index.delete(scope, names)
                await self._put_back(unwanted)
                await self._outbox.settle_unwanted(unwanted)
        metrics.SEARCH_INDEXED.labels("deleted").inc(removed)
        return removed

    async def _put_back(self, deleted: Sequence[Unwanted]) -> None:
        """Put in images that were imported again after they had been removed."""
        ids = [import_id(each.scope, each.name) for each in deleted if each.name[:1] in SHARDS]
        if back := await self._outbox.read(ids):
            await self.put(back)

    async def _record(self, before: Sequence[PictureRecord], ready: Sequence[PictureRecord]) -> None:
        """Record the first embeddings of imported images: a rebuild then needs no file."""
        bare = {(record.job_id, record.name) for record in before if record.embedding is None}
        try:
            await self._outbox.embed([each for each in ready if (each.job_id, each.name) in bare])
        except StoreFull:
            # The index has them all the same. A rebuild embeds them again.
            metrics.REPAIRED.labels("store_full").inc()

    async def _embedded(self, record: PictureRecord) -> PictureRecord | None:
        if record.embedding is not None and record.embedding.model == self._embedder.name:
            return record
        async with self._decoding:
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


def _by_scope(unwanted: Sequence[Unwanted]) -> dict[str, list[str]]:
    scopes: dict[str, list[str]] = {}
    for each in unwanted:
        scopes.setdefault(each.scope, []).append(each.name)
    return scopes
