"""The embeddings of queries, and of images that no worker has embedded. Batched, on one thread.

The CLIP computes on the CPU by default: a query is one text. Texts that arrive while others are embedded
share the next batch.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from contracts.errors import InvalidRequest
from runtime.grouping import Grouped
from telemetry import metrics

MAX_BATCH: Final = 32
KNOWN_TEXTS: Final = 4_096
"""Embeddings of texts that are remembered."""

Vector = NDArray[np.float16]
Rgb = NDArray[np.uint8]

T = TypeVar("T")


class Clip(Protocol):
    """A CLIP or SigLIP. One thread calls it."""

    @property
    def name(self) -> str:
        """`name@revision`: vectors of two names are never compared."""
        ...

    @property
    def dimensions(self) -> int:
        """The length of its vectors."""
        ...

    def texts(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """The embeddings of texts, (texts, dimensions), each of length 1."""
        ...

    def images(self, images: Sequence[Rgb]) -> NDArray[np.float16]:
        """The embeddings of images, each (height, width, 3): (images, dimensions), each of length 1."""
        ...


class Embedder:
    """A CLIP for the event loop. `prefix` is put before the kinds of input in the metrics."""

    def __init__(self, clip: Clip, prefix: str = "") -> None:
        self._clip = clip
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._texts: Grouped[str, Vector] = Grouped(self._run(clip.texts, f"{prefix}text"), limit=MAX_BATCH)
        self._images: Grouped[Rgb, Vector] = Grouped(
            self._run(clip.images, f"{prefix}image"), limit=MAX_BATCH
        )
        self._known: dict[str, Vector] = {}

    @property
    def name(self) -> str:
        """`name@revision` of the CLIP."""
        return self._clip.name

    @property
    def dimensions(self) -> int:
        """The length of the vectors."""
        return self._clip.dimensions

    async def text(self, text: str) -> Vector:
        """The embedding of a text, (dimensions,) of float16, of length 1."""
        known = self._known.pop(text, None)
        vector = await self._texts.add(text) if known is None else known
        self._known[text] = vector
        while len(self._known) > KNOWN_TEXTS:
            del self._known[next(iter(self._known))]
        return vector

    async def image(self, image: Rgb) -> Vector:
        """The embedding of an image, (height, width, 3): (dimensions,) of float16, of length 1."""
        return await self._images.add(image)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _run(
        self, embed: Callable[[Sequence[T]], Vector], kind: str
    ) -> Callable[[Sequence[T]], Awaitable[Sequence[Vector | Exception]]]:
        async def run(items: Sequence[T]) -> Sequence[Vector | Exception]:
            with metrics.SEARCH_EMBED_SECONDS.labels(kind).time():
                vectors = await asyncio.get_running_loop().run_in_executor(self._thread, embed, items)
            return list(vectors)

        return run


def decoded(data: bytes) -> Rgb:
    """The pixels of a file that this platform wrote: (height, width, 3). Raises what Pillow raises."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def decoded_base64(image: str) -> Rgb:
    """The pixels of an image that the API wrote. Raises `InvalidRequest`."""
    try:
        return decoded(base64.b64decode(image, validate=True))
    except (OSError, binascii.Error, UnidentifiedImageError):
        raise InvalidRequest("image cannot be read.", param="image") from None
