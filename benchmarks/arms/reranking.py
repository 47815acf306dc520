"""What ranking again gains: by a better model than that of the index, and by clicks.

There is one trained CLIP here. So the index is filled by an earlier one of this repository, which finds
less, and its hits are ranked again by the present one. Everything else is the search process's own code.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from backends.blobs import DirectoryBlobStore
from benchmarks.arms import gallery as galleries
from benchmarks.arms.gallery import Embedders, Gallery
from benchmarks.arms.search_figures import TEN, Queries, names_of, synonyms_of
from benchmarks.report import ROOT
from contracts.search import SearchAnswer, SearchQuery
from contracts.search_settings import SearchSettings
from contracts.tenancy import ANONYMOUS_TENANT
from runtime.clock import SystemClock
from search.clip import ClipModel
from search.embedder import Embedder
from search.engines import index_of
from search.query import Searcher
from search.rerank import Reranker
from search.vector_cache import VectorCache

EARLIER: Final = "50d050b"
"""The last revision of the `emoji-clip` before the present one."""
VISITS: Final = 20
"""Simulated searches of each query, whose clicks are counted."""
RIGHT: Final = 0.6
"""The chance that a person clicks on a right hit that they look at. They look at place n with a chance of 1 / n."""
WRONG: Final = 0.05


def earlier_clip(folder: Path) -> Path:
    """The earlier model, written to a folder from git's history. Raises `CalledProcessError` without that history."""
    place = folder / "emoji-clip-earlier"
    place.mkdir()
    listed = _git("ls-tree", "--name-only", EARLIER, "models/emoji-clip/").decode().split()
    for name in listed:
        (place / Path(name).name).write_bytes(_git("show", f"{EARLIER}:{name}"))
    return place


def ndcg_10(right: Sequence[bool], total: int) -> float:
    """The normalised discounted cumulative gain of the first ten hits (Järvelin and Kekäläinen 2002).

    `right`: whether each hit is right, the best first. `total`: how many right ones there are.
    """
    discounts = 1 / np.log2(np.arange(2, TEN + 2))
    gains = np.zeros(TEN)
    gains[: min(len(right), TEN)] = right[:TEN]
    ideal = discounts[: min(total, TEN)].sum()
    return float((gains * discounts).sum() / ideal) if total else 0.0


class SimulatedClicks:
    """The clicks on earlier hits, of people who look at fewer hits the lower they stand."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, int]] = {}

    async def add(self, tenant: str, query: str, image: str, holder: str, now: float) -> bool:
        """Count one click."""
        images = self.found.setdefault(query, {})
        images[image] = images.get(image, 0) + 1
        return True

    async def counts(self, tenant: str, query: str) -> Mapping[str, int]:
        """The clicks on each image."""
        return self.found.get(query, {})


def gains(gallery: Gallery, clip: str) -> dict[str, float]:
    """nDCG@10 of the hits in the index's order, ranked again by the model `clip`, and moved by clicks."""
    with tempfile.TemporaryDirectory(prefix="rerank-") as name:
        return asyncio.run(_gains(gallery, clip, Path(name)))


async def _gains(gallery: Gallery, clip: str, folder: Path) -> dict[str, float]:
    first = Embedders(str(earlier_clip(folder)))
    setting = f"embedded:{folder / 'index'}"
    names = await galleries.fill(
        gallery, first.images(gallery.pictures), first.name, setting, folder / "blobs"
    )
    things = {name: int(gallery.judged[row]) for row, name in enumerate(names)}
    clock = SystemClock()
    blobs = DirectoryBlobStore(folder / "blobs", clock)
    index = index_of(SearchSettings(search_index=setting))
    embedder, second = Embedder(ClipModel(first.setting)), ClipModel(clip)
    await index.open(embedder.name, embedder.dimensions)
    cache = VectorCache(None, second.name, len(names), clock.now)
    reranker = Reranker(Embedder(second, "rerank_"), cache, blobs, budget_s=3600.0)
    clicks, rng = SimulatedClicks(), np.random.default_rng(17)
    plain = Searcher(index, embedder, blobs, clock)
    ways = {
        "fused": plain,
        "reranked": Searcher(index, embedder, blobs, clock, reranker),
        "clicked": Searcher(index, embedder, blobs, clock, None, clicks),
    }
    figures = {}
    for kind, queries in (("name", names_of(gallery.emoji)), ("synonym", synonyms_of(gallery.emoji))):
        for text, thing in queries:
            answer = await plain.search(_query(text))
            await _visit(clicks, text, [(each, things[each] == thing) for each in _names(answer)], rng)
        for way, searcher in ways.items():
            figures[f"ndcg_{kind}_{way}"] = await _mean(searcher, queries, things)
    await reranker.close()
    await index.close()
    embedder.close()
    return figures | _ratios(figures)


async def _mean(searcher: Searcher, queries: Queries, things: Mapping[str, int]) -> float:
    totals = np.bincount(list(things.values()))
    found = []
    for text, thing in queries:
        if thing < len(totals) and totals[thing]:
            hits = _names(await searcher.search(_query(text)))
            found.append(ndcg_10([things[each] == thing for each in hits], int(totals[thing])))
    return float(np.mean(found))


def _ratios(figures: Mapping[str, float]) -> dict[str, float]:
    """With over without: `rerank_ndcg` and `clicks_ndcg`, of names and synonyms alike."""

    def whole(way: str) -> float:
        return (figures[f"ndcg_name_{way}"] + figures[f"ndcg_synonym_{way}"]) / 2

    return {
        "rerank_ndcg": whole("reranked") / whole("fused"),
        "clicks_ndcg": whole("clicked") / whole("fused"),
    }


async def _visit(clicks: SimulatedClicks, text: str, hits: Sequence[tuple[str, bool]], rng: Any) -> None:
    """`VISITS` people look at the hits, and click on some."""
    for _ in range(VISITS):
        for place, (name, right) in enumerate(hits, 1):
            if rng.random() < 1 / place and rng.random() < (RIGHT if right else WRONG):
                await clicks.add(ANONYMOUS_TENANT, text, name, "", 0.0)


def _query(text: str) -> SearchQuery:
    return SearchQuery(scopes=(ANONYMOUS_TENANT,), text=text, limit=30)


def _names(answer: SearchAnswer) -> list[str]:
    return [hit.picture.name for hit in answer.hits]


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout
