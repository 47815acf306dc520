"""One search: embed the query, ask the index twice, fuse, and leave out what is gone."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import UnidentifiedImageError
from store.pictures import PictureOutbox

from contracts.blobs import BlobStore
from contracts.clock import Clock
from contracts.errors import InvalidRequest, PictureNotIndexed
from contracts.pictures import PictureRecord
from contracts.search import MAX_OFFSET, Hit, SearchAnswer, SearchQuery
from search import fusion
from search.embedder import Embedder, Rgb, Vector, decoded
from search.index import Found, PictureIndex, Where
from telemetry import metrics
from telemetry.logs import get_logger

DEPTH: Final = 100
"""How many of the nearest, and how many of the best by words, are fused. Deeper pages take as many as they need."""

log = get_logger(__name__)


class Searcher:
    """Answers queries. `outbox` is told of images whose files are gone."""

    def __init__(
        self, index: PictureIndex, embedder: Embedder, blobs: BlobStore, outbox: PictureOutbox, clock: Clock
    ) -> None:
        self._index = index
        self._embedder = embedder
        self._blobs = blobs
        self._outbox = outbox
        self._clock = clock

    async def search(self, query: SearchQuery) -> SearchAnswer:
        """The hits of `query`, best first.

        Raises `InvalidRequest` for a bad cursor or image, `PictureNotIndexed` if `like` is not in the
        index, and `UnavailableError`.
        """
        where = Where.of(query.filters, alive_at=self._clock.now())
        if not (query.text or query.like or query.image):
            return await self._newest(query, where)
        start = fusion.offset_of(query)
        if start > MAX_OFFSET:
            raise InvalidRequest(f"cursor: a search ends after {MAX_OFFSET} hits.", param="cursor")
        vector = await self._vector(query)
        depth = max(DEPTH, start + query.limit + 1)
        nearest, worded = await asyncio.gather(
            self._index.nearest(query.scopes, vector, depth, where),
            self._index.by_words(query.scopes, query.text, depth, where) if query.text else _nothing(),
        )
        fused = fusion.fuse(nearest, worded, without=query.like)
        page = fused[start : start + query.limit]
        more = len(fused) > start + query.limit
        hits = await self._present(page)
        return SearchAnswer(
            hits=tuple(hits),
            cursor=fusion.cursor(query, start + query.limit) if more else None,
            clip=self._embedder.name,
        )

    async def _newest(self, query: SearchQuery, where: Where) -> SearchAnswer:
        before = fusion.place_of(query)
        found = await self._index.newest(query.scopes, before, query.limit + 1, where)
        page = found[: query.limit]
        hits = await self._present([Hit(picture=without_vector(record), score=0.0) for record in page])
        cursor = fusion.place_cursor(query, page[-1]) if len(found) > query.limit else None
        return SearchAnswer(hits=tuple(hits), cursor=cursor, clip=self._embedder.name)

    async def _vector(self, query: SearchQuery) -> Vector:
        if query.pixels is not None:
            return await self._embedder.image(pixels_of(query.image))
        if query.like:
            for scope in query.scopes:
                record = await self._index.get(scope, query.like)
                if record is not None and record.embedding is not None:
                    return np.frombuffer(record.embedding.raw(), "<f2")
            raise PictureNotIndexed("The index has no such image. It may not have arrived yet.")
        return await self._embedder.text(query.text)

    async def _present(self, hits: Sequence[Hit]) -> list[Hit]:
        """The hits whose files are there. The others leave the index."""
        there = await asyncio.gather(*(self._blobs.exists(hit.picture.name) for hit in hits))
        gone: dict[str, list[str]] = {}
        for hit, is_there in zip(hits, there, strict=True):
            if not is_there:
                gone.setdefault(hit.picture.scope, []).append(hit.picture.name)
        for scope, names in gone.items():
            metrics.SEARCH_GONE.inc(len(names))
            await self._index.delete(scope, names)
        return [hit for hit, is_there in zip(hits, there, strict=True) if is_there]


def without_vector(record: PictureRecord) -> PictureRecord:
    """The record without its embedding, as clients may have it."""
    return record.model_copy(update={"embedding": None})


def _decoded(image: str) -> Rgb:
    """The pixels of an image that the API wrote. Raises `InvalidRequest`."""
    try:
        return decoded(base64.b64decode(image, validate=True))
    except (OSError, binascii.Error, UnidentifiedImageError):
        raise InvalidRequest("image cannot be read.", param="image") from None


async def _nothing() -> Sequence[Found]:
    return ()
