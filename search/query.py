"""One search: embed the query, ask the index twice, fuse, and leave out what is gone."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from contracts.errors import PictureNotIndexed, StoreUnavailable
from contracts.pictures import PictureRecord
from contracts.ports.blob_store import BlobStore
from contracts.ports.click_store import ClickStore
from contracts.ports.clock import Clock
from contracts.search import Evidence, Filters, Reason, SearchAnswer, SearchQuery
from contracts.search import Hit as HitDocument
from search import clicks, fusion
from search.embedder import Embedder, decoded_base64
from search.index import Match, PictureIndex, Place
from search.rerank import Reranker
from search.where import Where
from telemetry import metrics

CLICKS_S: Final = 0.2
"""The longest time that a search waits for the clicks on its earlier hits."""


class Ranked(NamedTuple):
    """Hits in their last order. `reranked`: whether the second model has ranked them; None: there is none."""

    hits: list[fusion.Hit]
    reranked: bool | None


class Searcher:
    """Answers queries.

    `reranker`: the second model; None: there is none. `clicks`: the clicks on earlier hits; None: they
    do not count.
    """

    def __init__(
        self,
        index: PictureIndex,
        embedder: Embedder,
        blobs: BlobStore,
        clock: Clock,
        reranker: Reranker | None = None,
        clicks: ClickStore | None = None,
    ) -> None:
        self._index = index
        self._embedder = embedder
        self._blobs = blobs
        self._clock = clock
        self._reranker = reranker
        self._clicks = clicks

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
        nearest, worded, counts = await asyncio.gather(
            self._index.nearest(query.scopes, vector, depth, where),
            self._index.by_words(query.scopes, query.text, depth, where) if query.text else _nothing(),
            self._counts(query),
        )
        others = [match for match in nearest if match.name != query.like]
        fused = fusion.deepened(others, worded, query.scopes)
        hits, reranked = await self._ranked(query, fused, cursor, counts)
        complete = len(nearest) < depth and len(worded) < depth
        page, following = fusion.page(
            hits, query.limit, cursor, bound, now, complete=complete, reranked=bool(reranked)
        )
        return SearchAnswer(
            hits=tuple(await self._present(page, asked=reranked is not None)),
            cursor=None if following is None else following.text(),
            clip=self._embedder.name,
        )

    async def _ranked(
        self,
        query: SearchQuery,
        hits: list[fusion.Hit],
        cursor: fusion.Cursor | None,
        counts: Mapping[str, int],
    ) -> Ranked:
        """The hits, the first of them ranked by the second model and by clicks, where there are some.

        Later pages are ranked as the first one was.
        """
        first, rest = hits[: fusion.DEPTH], hits[fusion.DEPTH :]
        reranked = None if self._reranker is None else False
        if self._reranker is not None and first and (cursor is None or cursor.reranked):
            names = [hit.key.name for hit in first]
            scores = await self._reranker.scores(query, names, patient=cursor is not None)
            if scores is not None:
                first, reranked = fusion.rerank(first, scores), True
        return Ranked((clicks.moved(first, counts) if counts else first) + rest, reranked)

    async def _counts(self, query: SearchQuery) -> Mapping[str, int]:
        """The clicks of the caller's own tenant on earlier hits. None of them, where their store is away or slow."""
        if self._clicks is None or not query.text:
            return {}
        try:
            async with asyncio.timeout(CLICKS_S):
                return await self._clicks.counts(query.scopes[0], query.text)
        except (StoreUnavailable, TimeoutError):
            metrics.REPAIRED.labels("search_clicks").inc()
            return {}

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
            image = await asyncio.to_thread(decoded_base64, query.image)
            return (await self._embedder.image(image)).tobytes()
        if not query.like:
            return (await self._embedder.text(query.text)).tobytes()
        for scope in query.scopes:
            record = await self._index.get(scope, query.like)
            if record is not None and record.embedding is not None:
                return record.embedding.raw()
        raise PictureNotIndexed("The index has no such image. It may not have arrived yet.")

    async def _present(self, hits: Sequence[fusion.Hit], *, asked: bool = False) -> list[HitDocument]:
        """The hits whose records and files are there. Those whose files are gone leave the index.

        `asked`: whether a second model was asked to rank them.
        """
        records = await self._index.get_many([hit.key for hit in hits])
        there = await asyncio.gather(*(self._blobs.exists(hit.key.name) for hit in hits))
        gone: dict[str, list[str]] = {}
        found = []
        for hit, record, is_there in zip(hits, records, there, strict=True):
            if not is_there:
                gone.setdefault(hit.key.scope, []).append(hit.key.name)
            elif record is not None:
                found.append(document_of(hit, record, asked=asked))
        for scope, names in gone.items():
            metrics.SEARCH_GONE.inc(await self._index.delete(scope, names))
        return found


def document_of(hit: fusion.Hit, record: PictureRecord, *, asked: bool = False) -> HitDocument:
    """The hit as the API gets it, without the embedding. `asked`: whether a second model was asked to rank it."""
    places: dict[Reason, fusion.Rank | None] = {
        "vector": hit.vector,
        "words": hit.words,
        "rerank": hit.rerank,
        "clicks": hit.clicks,
    }
    why = {
        reason: Evidence(rank=place.rank, score=place.score)
        for reason, place in places.items()
        if place is not None
    }
    picture = record.model_copy(update={"embedding": None})
    reranked = hit.rerank is not None if asked else None
    return HitDocument(picture=picture, score=hit.score, why=why, reranked=reranked)


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


async def _nothing() -> Sequence[Match]:
    return ()
