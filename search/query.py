"""One search: embed the query, ask the index twice, fuse, and leave out what is gone."""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
from collections.abc import Sequence

from PIL import UnidentifiedImageError

from contracts.errors import InvalidRequest, PictureNotIndexed
from contracts.pictures import PictureRecord
from contracts.ports.blob_store import BlobStore
from contracts.ports.clock import Clock
from contracts.search import Evidence, Filters, Reason, SearchAnswer, SearchQuery
from contracts.search import Hit as HitDocument
from search import fusion
from search.embedder import Embedder, Rgb, decoded
from search.index import Match, PictureIndex, Place
from search.where import Where
from telemetry import metrics


class Searcher:
    """Answers queries."""

    def __init__(self, index: PictureIndex, embedder: Embedder, blobs: BlobStore, clock: Clock) -> None:
        self._index = index
        self._embedder = embedder
        self._blobs = blobs
        self._clock = clock

    async def search(self, query: SearchQuery) -> SearchAnswer:
        """The hits of `query`, best first.

        Raises `InvalidRequest` for a bad cursor or image, `PictureNotIndexed` if `like` is not in the
        index, and `UnavailableError`.
        """
        now = self._clock.now()
        bound = fusion.digest(query.scopes, query.model_dump(mode="json", exclude={"limit", "cursor"}))
        if not (query.text or query.like or query.image):
            return await self._browse(query, bound, now)
        cursor = fusion.Cursor.parse(query.cursor, bound) if query.cursor else None
        where = where_of(query.filters, now, None if cursor is None else cursor.as_of)
        depth = fusion.depth(0 if cursor is None else cursor.offset, query.limit)
        vector = await self._vector(query)
        nearest, worded = await asyncio.gather(
            self._index.nearest(query.scopes, vector, depth, where),
            self._index.by_words(query.scopes, query.text, depth, where) if query.text else _nothing(),
        )
        hits = fusion.fuse([match for match in nearest if match.name != query.like], worded, query.scopes)
        complete = len(nearest) < depth and len(worded) < depth
        page, following = fusion.page(hits, query.limit, cursor, bound, now, complete=complete)
        return SearchAnswer(
            hits=tuple(await self._present(page)),
            cursor=None if following is None else following.text(),
            clip=self._embedder.name,
        )

    async def _browse(self, query: SearchQuery, bound: str, now: float) -> SearchAnswer:
        """All images, the newest first. New images move nothing on later pages."""
        before = fusion.parse_place(query.cursor, bound) if query.cursor else None
        where = where_of(query.filters, now, None)
        # An image may be in two scopes.
        count = query.limit * len(query.scopes) + 1
        found = await self._index.newest(query.scopes, count, where, before)
        names = dict.fromkeys(match.name for match in found)
        chosen = set(list(names)[: query.limit])
        page = [match for match in found if match.name in chosen]
        hits = [fusion.Hit(match.key, 0.0) for match in {match.name: match for match in page}.values()]
        more = len(names) > len(chosen)
        place = Place(page[-1].score, page[-1].name) if page else None
        return SearchAnswer(
            hits=tuple(await self._present(hits)),
            cursor=fusion.place_text(place, bound) if place is not None and more else None,
            clip=self._embedder.name,
        )

    async def _vector(self, query: SearchQuery) -> bytes:
        if query.image:
            image = await asyncio.to_thread(_decoded, query.image)
            return (await self._embedder.image(image)).tobytes()
        if not query.like:
            return (await self._embedder.text(query.text)).tobytes()
        for scope in query.scopes:
            record = await self._index.get(scope, query.like)
            if record is not None and record.embedding is not None:
                return record.embedding.raw()
        raise PictureNotIndexed("The index has no such image. It may not have arrived yet.")

    async def _present(self, hits: Sequence[fusion.Hit]) -> list[HitDocument]:
        """The hits whose records and files are there. Those whose files are gone leave the index."""
        records = await self._index.get_many([hit.key for hit in hits])
        there = await asyncio.gather(*(self._blobs.exists(hit.key.name) for hit in hits))
        gone: dict[str, list[str]] = {}
        found = []
        for hit, record, is_there in zip(hits, records, there, strict=True):
            if not is_there:
                gone.setdefault(hit.key.scope, []).append(hit.key.name)
            elif record is not None:
                found.append(document_of(hit, record))
        for scope, names in gone.items():
            metrics.SEARCH_GONE.inc(await self._index.delete(scope, names))
        return found


def document_of(hit: fusion.Hit, record: PictureRecord) -> HitDocument:
    """The hit as the API gets it, without the embedding."""
    places: dict[Reason, fusion.Rank | None] = {
        "vector": hit.vector,
        "words": hit.words,
        "rerank": hit.rerank,
    }
    why = {
        reason: Evidence(rank=place.rank, score=place.score)
        for reason, place in places.items()
        if place is not None
    }
    picture = record.model_copy(update={"embedding": None})
    return HitDocument(picture=picture, score=hit.score, why=why)


def where_of(filters: Filters, now: float, as_of: float | None) -> Where:
    """The filter of the index: what the client asks for, what has not expired at `now`, and what was there at `as_of`.

    `as_of` is None for a first page. Its filter then selects nothing unless the client does, and an index
    answers that in its quickest way.
    """
    wanted = filters.model_dump(exclude={"created_after", "created_before"})
    ends = [] if as_of is None else [as_of]
    if filters.created_before is not None:
        # The client's end is exclusive, the index's inclusive.
        ends.append(math.nextafter(filters.created_before, -math.inf))
    return Where(
        alive_at=now, created_from=filters.created_after, created_to=min(ends, default=None), **wanted
    )


def _decoded(image: str) -> Rgb:
    """The pixels of an image that the API wrote. Raises `InvalidRequest`."""
    try:
        return decoded(base64.b64decode(image, validate=True))
    except (OSError, binascii.Error, UnidentifiedImageError):
        raise InvalidRequest("image cannot be read.", param="image") from None


async def _nothing() -> Sequence[Match]:
    return ()
