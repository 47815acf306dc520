"""Looks at images that are stored: decodes their files, and asks the judge once for each image and policy."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contracts.errors import ImageNotFound
from contracts.ports.blob_store import BlobStore
from contracts.ports.clock import Clock
from contracts.ports.picture_judge import Look, PictureJudge, PictureToJudge
from contracts.ports.scan_store import ScanStore
from moderation.policy import Policy

TRIES: Final = 3
"""How often an image is shown to layers that could not look at it."""
FORMATS: Final = ("PNG", "JPEG", "WEBP")
Embed = Callable[[NDArray[np.uint8]], bytes]
"""The embedding of an image (height, width, 3), as bytes of float16 of length 1."""


class StoredPictures:
    """Shows stored images to the judge of a policy. What all layers have found is kept, and not looked for again."""

    def __init__(
        self,
        blobs: BlobStore,
        scans: ScanStore,
        judge: PictureJudge,
        looks: str,
        clock: Clock,
        *,
        clip: str = "",
        embed: Embed | None = None,
        per_s: float | None = None,
    ) -> None:
        """`looks` is the `digest_of` the policy. `embed` embeds images whose record has no embedding of the model
        `clip`. At most `per_s` images are looked at in a second."""
        self._blobs = blobs
        self._scans = scans
        self._judge = judge
        self._looks = looks
        self._clock = clock
        self._clip = clip
        self._embed = embed
        self._per_s = per_s
        self._next_at = 0.0
        self._one_at_a_time = asyncio.Lock()
        self.looked = 0
        """How many images layers have looked at."""

    async def look(self, name: str, embedding: bytes | None = None) -> Look | None:
        """What the layers find in the image; None: it is gone. A file that cannot be read is as if the layer `pictures`
        could not look. Raises `BlobStoreUnavailable`, `StoreUnavailable`."""
        await self._pace()
        try:
            file = await self._blobs.get(name)
        except ImageNotFound:
            return None
        try:
            rgb = await asyncio.to_thread(_decoded, file)
        except (OSError, ValueError, Image.DecompressionBombError):
            return Look(away=("pictures",))
        if embedding is None and self._embed is not None and self._judge.embeds:
            async with self._one_at_a_time:
                embedding = await asyncio.to_thread(self._embed, rgb)
        picture = PictureToJudge(
            rgb=rgb.tobytes(),
            width=rgb.shape[1],
            height=rgb.shape[0],
            file=file,
            tenant="",
            embedding=embedding,
            clip="" if embedding is None else self._clip,
        )
        self.looked += 1
        look = Look()
        for _ in range(TRIES):
            look = await self._judge.look(picture)
            if not look.away:
                await self._scans.remember(self._looks, name, look.findings)
                break
        return look

    async def _pace(self) -> None:
        if self._per_s is None:
            return
        now = self._clock.monotonic()
        begin = max(now, self._next_at)
        self._next_at = begin + 1 / self._per_s
        await asyncio.sleep(begin - now)


def digest_of(policy: Policy, clip: str) -> str:
    """A digest of a policy and of the contents of all files that it names, for looks by the model `clip`.

    Raises `OSError`.
    """
    whole = hashlib.sha256(policy.model_dump_json().encode())
    whole.update(clip.encode())
    files = {path for _, path in policy.files()}
    for classifier in policy.pictures.classifiers:
        if isinstance(classifier.model, Path):
            files |= {path for path in classifier.model.iterdir() if path.is_file()}
    for path in sorted(files):
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:32]


def size_of(file: bytes) -> tuple[int, int]:
    """Width and height of the image, by the head of its file; 0, 0: it cannot be read."""
    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as picture:
            return picture.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return 0, 0


def _decoded(file: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(file), formats=FORMATS) as picture:
        return np.asarray(picture.convert("RGB"), np.uint8)
