"""A second model ranks the first hundred hits again, if it is done in time."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from backends.blobs import DirectoryBlobStore
from contracts.search import SearchQuery
from runtime.clock import SystemClock
from search.embedded import EmbeddedIndex
from search.embedder import Embedder, Rgb
from search.query import Searcher
from search.rerank import MAX_BEHIND, Reranker
from search.vector_cache import VectorCache
from tests.search import made
from tests.search.test_searcher import Vectors

pytestmark = pytest.mark.anyio

SECOND = "second@1"
COUNT = 130


class Brightness:
    """A CLIP that likes dark images: the vector of an image says how dark it is. It waits for `go`."""

    name = SECOND
    dimensions = 2

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.seen = 0
        self.broken = False

    def texts(self, texts: Sequence[str]) -> NDArray[np.float16]:
        return np.array([[1, 0]] * len(texts), np.float16)

    def images(self, images: Sequence[Rgb]) -> NDArray[np.float16]:
        self.go.wait()
        if self.broken:
            raise RuntimeError("the device is lost")
        self.seen += len(images)
        angles = [0.3 + float(image.mean()) / 128 for image in images]  # far enough apart for half precision
        return np.array([[np.cos(angle), np.sin(angle)] for angle in angles], np.float16)


class Clicked:
    """The clicks on one query of one tenant."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    async def add(self, tenant: str, query: str, image: str, holder: str, now: float) -> bool:
        self.found[image] = self.found.get(image, 0) + 1
        return True

    async def counts(self, tenant: str, query: str) -> dict[str, int]:
        return self.found if (tenant, query) == ("a", "picture 0") else {}


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(file, "PNG")
    return file.getvalue()


class Place:
    """A searcher on COUNT images. Image `n` is as dark as n tells, so the second model likes the last ones."""

    def __init__(self, folder: Path, budget_s: float = 60.0) -> None:
        self.folder, self.clip, self.clicks = folder, Brightness(), Clicked()
        clock = SystemClock()
        self.blobs = DirectoryBlobStore(folder / "blobs", clock)
        self.index = EmbeddedIndex(folder / "index", exact_below=1_000)
        self.embedder = Embedder(Vectors())
        self.cache = VectorCache(folder / "rerank.sqlite3", SECOND, 1_000, clock.now)
        self.reranker = Reranker(Embedder(self.clip), self.cache, self.blobs, budget_s)
        self.searcher = Searcher(self.index, self.embedder, self.blobs, clock, self.reranker, self.clicks)
        self.names: list[str] = []

    async def fill(self) -> None:
        await self.index.open(made.CLIP, made.DIMENSIONS)
        self.names = [await self.blobs.put(png(COUNT - number), "png") for number in range(COUNT)]
        now = SystemClock().now()
        await self.index.put(
            [
                made.record(number, created_at=now - 1000 + number, expires_at=now + 1000).model_copy(
                    update={"name": name}
                )
                for number, name in enumerate(self.names)
            ]
        )

    async def search(self, **query: Any) -> Any:
        return await self.searcher.search(SearchQuery(scopes=("a",), **query))

    async def close(self) -> None:
        self.clip.go.set()
        await self.reranker.close()
        await self.index.close()
        self.embedder.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made_place = Place(tmp_path)
    await made_place.fill()
    yield made_place
    await made_place.close()


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[Place]:
    made_place = Place(tmp_path, budget_s=0.05)
    await made_place.fill()
    yield made_place
    await made_place.close()


async def test_the_second_model_has_a_say_and_each_hit_says_so(place: Place) -> None:
    answer = await place.search(text="picture 0", limit=100)
    assert all(hit.reranked for hit in answer.hits)
    by_second = sorted(answer.hits, key=lambda hit: hit.why["rerank"].rank)
    numbers = [place.names.index(hit.picture.name) for hit in by_second]
    assert numbers == sorted(numbers, reverse=True)
    fused = {}
    for hit in answer.hits:
        assert "rerank" in hit.why
        assert {"vector", "words"} & set(hit.why)
        fused[hit.picture.name] = hit.why["rerank"].score
    assert [hit.score for hit in answer.hits] == sorted((hit.score for hit in answer.hits), reverse=True)
    assert max(fused, key=lambda name: fused[name]) == by_second[0].picture.name


async def test_each_image_is_seen_once_however_often_it_is_searched(place: Place) -> None:
    await place.search(text="picture 0", limit=10)
    seen = place.clip.seen
    assert seen == 100
    await place.search(text="picture 0", limit=10)
    assert place.clip.seen == seen
    assert len(place.cache.get(place.names)) == 100


async def test_later_pages_keep_the_order_of_the_first(place: Place) -> None:
    whole = [hit.picture.name for hit in (await place.search(text="picture 0", limit=100)).hits]
    paged: list[str] = []
    cursor = ""
    while True:
        page = await place.search(text="picture 0", limit=30, cursor=cursor)
        paged += [hit.picture.name for hit in page.hits]
        if page.cursor is None:
            break
        cursor = page.cursor
    assert paged[:60] == whole[:60]
    assert sorted(paged) == sorted(place.names)


async def test_beyond_the_first_hundred_nothing_is_ranked_again(place: Place) -> None:
    cursor = (await place.search(text="picture 0", limit=100)).cursor
    rest = await place.search(text="picture 0", limit=100, cursor=cursor)
    assert {hit.reranked for hit in rest.hits} == {False}


@pytest.mark.parametrize("by", ["like", "image"])
async def test_images_are_compared_by_the_second_model_too(place: Place, by: str) -> None:
    query = {"like": place.names[-1]} if by == "like" else {"image": base64.b64encode(png(1)).decode()}
    answer = await place.search(**query, limit=100)
    best = min(answer.hits, key=lambda hit: hit.why["rerank"].rank)
    assert best.picture.name == (place.names[-2] if by == "like" else place.names[-1])


async def test_a_model_that_is_late_leaves_the_order_and_fills_the_cache(hasty: Place) -> None:
    hasty.clip.go.clear()
    late = await hasty.search(text="picture 0", limit=20)
    assert {hit.reranked for hit in late.hits} == {False}
    assert all("rerank" not in hit.why for hit in late.hits)
    assert late.hits[0].picture.name == hasty.names[0]
    # Its second page has the order of the first, however quick the model is now.
    hasty.clip.go.set()
    again = await hasty.search(text="picture 0", limit=20, cursor=late.cursor)
    assert {hit.reranked for hit in again.hits} == {False}
    await hasty.reranker.idle()
    ready = await hasty.search(text="picture 0", limit=20)
    assert {hit.reranked for hit in ready.hits} == {True}
    assert hasty.clip.seen == 100


async def test_no_more_than_a_few_searches_are_ranked_behind_their_answers(hasty: Place) -> None:
    hasty.clip.go.clear()
    for number in range(MAX_BEHIND + 3):
        answer = await hasty.search(text=f"picture {number}", limit=5)
        assert {hit.reranked for hit in answer.hits} == {False}
    assert hasty.reranker.busy == MAX_BEHIND


async def test_a_model_that_fails_costs_no_search(place: Place) -> None:
    place.clip.broken = True
    answer = await place.search(text="picture 0", limit=5)
    assert [hit.reranked for hit in answer.hits] == [False] * 5
    place.clip.broken = False
    assert (await place.search(text="picture 0", limit=5)).hits[0].reranked


async def test_a_file_that_is_no_image_is_placed_behind(place: Place) -> None:
    (path,) = place.folder.rglob(place.names[0])
    path.write_bytes(b"no image")
    answer = await place.search(text="picture 0", limit=100)
    (bad,) = (hit for hit in answer.hits if hit.picture.name == place.names[0])
    assert bad.reranked is False
    assert answer.hits[-1].picture.name == bad.picture.name


async def test_clicks_of_the_tenant_move_a_hit(place: Place) -> None:
    before = [hit.picture.name for hit in (await place.search(text="picture 0", limit=100)).hits]
    place.clicks.found = {before[30]: 50}
    after = (await place.search(text="picture 0", limit=100)).hits
    names = [hit.picture.name for hit in after]
    assert 10 <= names.index(before[30]) <= 13
    assert after[names.index(before[30])].why["clicks"].rank == 1
    other = [hit.picture.name for hit in (await place.search(text="picture 1", limit=100)).hits]
    assert all("clicks" not in hit.why for hit in after if hit.picture.name != before[30])
    assert len(other) == 100
