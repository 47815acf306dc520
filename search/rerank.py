"""Ranks the best hits again by a second, heavier CLIP, within a time.

The second model sees the images' files, and keeps their vectors. What the time of one search did not
suffice for goes on behind it, so that the next search for the like finds the vectors there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from contracts.errors import ImageNotFound
from contracts.ports.blob_store import BlobStore
from contracts.search import SearchQuery
from search.embedder import Embedder, Vector, decoded, decoded_base64
from search.vector_cache import VectorCache
from telemetry import metrics
from telemetry.logs import get_logger

MAX_BEHIND: Final = 8
"""How many searches may be ranked at once, those that were answered before their end among them."""

log = get_logger(__name__)


class Reranker:
    """Scores images by a second model. `close` it at the end.

    `budget_s` is the longest time that it adds to a search.
    """

    def __init__(self, embedder: Embedder, vectors: VectorCache, blobs: BlobStore, budget_s: float) -> None:
        self._embedder = embedder
        self._vectors = vectors
        self._blobs = blobs
        self._budget_s = budget_s
        self._running: set[asyncio.Task[dict[str, float]]] = set()
        self._coming: dict[str, asyncio.Task[Vector | None]] = {}
        """The images that are being embedded."""

    async def scores(
        self, query: SearchQuery, names: Sequence[str], *, patient: bool = False
    ) -> dict[str, float] | None:
        """The cosine similarity of each image and the query; None: the time was up, or the model failed.

        Images whose files cannot be read have none. `patient`: take all the time that it needs.
        """
        if len(self._running) >= MAX_BEHIND and not patient:
            metrics.SEARCH_RERANKED.labels("late").inc()
            return None
        task = asyncio.create_task(self._scores(query, names))
        self._running.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait({task}, timeout=None if patient else self._budget_s)
        if not task.done():
            metrics.SEARCH_RERANKED.labels("late").inc()
            return None
        failed = task.cancelled() or task.exception() is not None
        metrics.SEARCH_RERANKED.labels("failed" if failed else "done").inc()
        return None if failed else task.result()

    @property
    def busy(self) -> int:
        """How many searches are being ranked."""
        return len(self._running)

    async def idle(self) -> None:
        """Wait until no search is being ranked."""
        while self._running:
            await asyncio.wait(self._running)

    async def close(self) -> None:
        """End what goes on behind the searches, the model's thread, and the cache."""
        tasks = [*self._running, *self._coming.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._embedder.close)
        self._vectors.close()

    def _ended(self, task: asyncio.Task[dict[str, float]]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A search is never lost to the model that ranks it again.
            log.error("rerank_failed", error=repr(error))

    async def _scores(self, query: SearchQuery, names: Sequence[str]) -> dict[str, float]:
        wanted = [*names, *([query.like] if query.like else [])]
        found, probe = await asyncio.gather(self._of_images(wanted), self._of_query(query))
        if probe is None:
            probe = found.get(query.like)
        known = [name for name in names if name in found]
        if probe is None or not known:  # the file of the image to compare with may be gone
            return {}
        likeness = np.stack([found[name] for name in known]).astype(np.float32) @ probe.astype(np.float32)
        return dict(zip(known, likeness.tolist(), strict=True))

    async def _of_query(self, query: SearchQuery) -> Vector | None:
        """The vector of the query's text or image; None: it names an image of the index."""
        if query.image:
            return await self._embedder.image(await asyncio.to_thread(decoded_base64, query.image))
        return await self._embedder.text(query.text) if query.text else None

    async def _of_images(self, names: Sequence[str]) -> dict[str, Vector]:
        kept = await asyncio.to_thread(self._vectors.get, names)
        found = {name: np.frombuffer(raw, "<f2") for name, raw in kept.items()}
        missing = [name for name in dict.fromkeys(names) if name not in found]
        made = await asyncio.gather(*(self._coming_vector(name) for name in missing))
        new = {name: vector for name, vector in zip(missing, made, strict=True) if vector is not None}
        if new:
            raw_vectors = {name: vector.astype("<f2").tobytes() for name, vector in new.items()}
            await asyncio.to_thread(self._vectors.put, raw_vectors)
        return found | new

    async def _coming_vector(self, name: str) -> Vector | None:
        """The vector of an image, which searches that want it at once share."""
        task = self._coming.get(name)
        if task is None:
            task = self._coming[name] = asyncio.create_task(self._embedded(name))
            task.add_done_callback(lambda _: self._coming.pop(name, None))
        return await asyncio.shield(task)

    async def _embedded(self, name: str) -> Vector | None:
        """The vector of an image; None: its file is gone, or is none."""
        try:
            image = await asyncio.to_thread(decoded, await self._blobs.get(name))
        except (ImageNotFound, OSError, UnidentifiedImageError, Image.DecompressionBombError):
            return None
        return await self._embedder.image(image)
