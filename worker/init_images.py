"""What moderation says of the image that a job starts from, before anything is drawn."""

from __future__ import annotations

import asyncio
from typing import Final

import numpy as np

from backends.blobs import blob_name
from contracts.moderation import Verdict
from contracts.ports.clock import Clock
from contracts.ports.picture_judge import PictureJudge, PictureToJudge
from contracts.ports.review_store import ReviewStore
from moderation.child_embedder import ChildEmbedder, EmbeddingFailed
from moderation.decide import decide
from moderation.held import decided_before
from moderation.live import LivePolicy
from telemetry.logs import get_logger

AGAIN_S: Final = 60.0
"""Seconds after which a process that could not embed is started anew."""

log = get_logger(__name__)


class InitEmbedder:
    """Embeds init images, in a process of its own that starts with the first one. Call `close` at the end.

    The engine embeds what it has drawn. Its process must not get what the policy blocks.
    """

    def __init__(self, setting: str, clock: Clock) -> None:
        """`setting` is `DARKROOM_CLIP`; empty: nothing is embedded."""
        self._setting = setting
        self._clock = clock
        self._child: ChildEmbedder | None = None
        self._not_before = 0.0
        self._one_at_a_time = asyncio.Lock()

    async def embed(self, rgb: bytes, width: int, height: int, clip: str) -> bytes | None:
        """The vector of the image by the model `clip`, as bytes of float16; None: nothing can embed it now."""
        if not self._setting:
            return None
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._embed, rgb, width, height, clip)

    def _embed(self, rgb: bytes, width: int, height: int, clip: str) -> bytes | None:
        if self._clock.monotonic() < self._not_before:
            return None
        try:
            if self._child is None:
                self._child = ChildEmbedder(self._setting).__enter__()
                if self._child.clip != clip:
                    raise EmbeddingFailed(f"It has {self._child.clip}, and the engine has {clip}.")
            return self._child.embed(np.frombuffer(rgb, np.uint8).reshape(height, width, 3))
        except (EmbeddingFailed, OSError) as error:
            log.error("init_image_not_embedded", reason=str(error))
            self._not_before = self._clock.monotonic() + AGAIN_S
            self._end()
            return None

    def _end(self) -> None:
        if self._child is not None:
            self._child.__exit__(None, None, None)
            self._child = None

    async def close(self) -> None:
        """End the process."""
        async with self._one_at_a_time:
            await asyncio.to_thread(self._end)


class InitImages:
    """Judges init images by the policy in force."""

    def __init__(
        self, live: LivePolicy[PictureJudge], reviews: ReviewStore, embedder: InitEmbedder, clip: str
    ) -> None:
        """`clip` names the model of the embeddings."""
        self._live = live
        self._reviews = reviews
        self._embedder = embedder
        self._clip = clip

    async def of(self, tenant: str, file: bytes, rgb: bytes, width: int, height: int) -> Verdict:
        """The verdict on an init image. `rgb` are the pixels of `file`. Raises `StoreUnavailable`."""
        rules = self._live.now
        embedding = None
        if rules.compiled.embeds:
            embedding = await self._embedder.embed(rgb, width, height, self._clip)
        look = await rules.compiled.look(
            PictureToJudge(
                rgb=rgb,
                width=width,
                height=height,
                file=file,
                tenant=tenant,
                embedding=embedding,
                clip="" if embedding is None else self._clip,
            )
        )
        verdict = decide(rules.policy, tenant, look.findings, look.away)
        if verdict.state != "in_review":
            return verdict
        name = blob_name(file, "png")
        past = await self._reviews.past([name])
        return decided_before(verdict, past.get(name))
