"""A search asks the index for no more than the client does: a filter that selects costs every index its quick way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.blobs import DirectoryBlobStore
from contracts.search import Filters, SearchQuery
from runtime.clock import SystemClock
from search.embedded import EmbeddedIndex
from search.embedder import Embedder, Rgb
from search.index import Match, Place
from search.query import Searcher, where_of
from search.where import EVERYTHING, Where
from tests.search import made


class Asked(EmbeddedIndex):
    """An index that keeps what it was asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, exact_below=1_000)
        self.filters: list[Where] = []

    async def nearest(
        self, scopes: Sequence[str], vector: bytes, count: int, where: Where = EVERYTHING
    ) -> Sequence[Match]:
        self.filters.append(where)
        return await super().nearest(scopes, vector, count, where)

    async def by_words(
        self, scopes: Sequence[str], words: str, count: int, where: Where = EVERYTHING
    ) -> Sequence[Match]:
        self.filters.append(where)
        return await super().by_words(scopes, words, count, where)

    async def newest(
        self, scopes: Sequence[str], count: int, where: Where = EVERYTHING, before: Place | None = None
    ) -> Sequence[Match]:
        self.filters.append(where)
        return await super().newest(scopes, count, where, before)


class Vectors:
    """A CLIP for which every text and image is the picture of this number."""

    name = made.CLIP
    dimensions = made.DIMENSIONS

    def texts(self, texts: Sequence[str]) -> NDArray[np.float16]:
        return np.stack([np.frombuffer(made.vector(int(text.split()[-1])), "<f2") for text in texts])

    def images(self, images: Sequence[Rgb]) -> NDArray[np.float16]:
        return np.stack([np.frombuffer(made.vector(1), "<f2") for _ in images])


@pytest.mark.anyio
async def test_a_first_page_filters_by_nothing_and_later_pages_by_the_time_of_the_first(
    tmp_path: Path,
) -> None:
    blobs = DirectoryBlobStore(tmp_path / "blobs", SystemClock())
    clock = SystemClock()
    now = clock.now()
    index, embedder = Asked(tmp_path / "index"), Embedder(Vectors())
    await index.open(made.CLIP, made.DIMENSIONS)
    records = [made.record(n, created_at=now - 100 + n, expires_at=now + 1_000) for n in range(30)]
    names = [await blobs.put(str(n).encode(), "png") for n in range(30)]
    records = [each.model_copy(update={"name": name}) for each, name in zip(records, names, strict=True)]
    await index.put(records)
    searcher = Searcher(index, embedder, blobs, clock)
    first = await searcher.search(SearchQuery(scopes=("a",), text="picture 7", limit=10))
    assert first.hits[0].picture.name == names[7]
    assert first.cursor is not None
    assert len(index.filters) == 2
    assert not any(where.selects for where in index.filters)
    await index.put([made.record(99, created_at=now + 50, expires_at=now + 1_000)])
    index.filters.clear()
    rest = await searcher.search(SearchQuery(scopes=("a",), text="picture 7", limit=30, cursor=first.cursor))
    assert sorted(hit.picture.name for hit in (*first.hits, *rest.hits)) == sorted(names)
    assert all(where.created_to is not None and where.created_to < now + 50 for where in index.filters)
    index.filters.clear()
    newest = await searcher.search(SearchQuery(scopes=("a",), limit=3))
    assert len(newest.hits) == 2  # that of number 99 has no file
    assert not any(where.selects for where in index.filters)
    await index.close()
    embedder.close()


def test_the_earlier_of_two_ends_counts() -> None:
    assert where_of(Filters(), 9.0, None) == Where(alive_at=9.0)
    last = math.nextafter(4.0, -math.inf)  # the client's end is exclusive, the index's inclusive
    assert where_of(Filters(created_before=4.0), 9.0, None).created_to == last
    assert where_of(Filters(created_before=4.0), 9.0, 3.0).created_to == 3.0
    assert where_of(Filters(created_before=4.0), 9.0, 5.0).created_to == last
    assert where_of(Filters(lora="pixel"), 9.0, None) == Where(alive_at=9.0, lora="pixel")
