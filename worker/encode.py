"""Pixels to files, off the device's thread. OpenCV, because Pillow takes eight times as long for a PNG."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from contracts.engine import Pixels
from telemetry import metrics

THREADS: Final = 2
_OPTIONS: Final = {
    # A low level: the time matters more than the tenth of the size that is to be had.
    "png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
    "webp": [cv2.IMWRITE_WEBP_QUALITY, 90],
    "jpeg": [cv2.IMWRITE_JPEG_QUALITY, 92],
}

cv2.setNumThreads(1)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture file; `format` is also its extension."""

    data: bytes
    format: str
    encode_ms: float

    @property
    def content_type(self) -> str:
        return f"image/{self.format}"


def encode(pixels: Pixels, format_: str) -> Encoded:
    """`pixels` as a file of `format_`: png (lossless), webp or jpeg."""
    begun = time.perf_counter()
    rgb = np.frombuffer(pixels.rgb, np.uint8).reshape(pixels.height, pixels.width, 3)
    done, data = cv2.imencode(f".{format_}", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), _OPTIONS[format_])
    if not done:
        raise ValueError(f"OpenCV cannot write {format_}.")
    seconds = time.perf_counter() - begun
    metrics.ENCODE_SECONDS.observe(seconds)
    return Encoded(data.tobytes(), format_, seconds * 1000)


class Encoder:
    """Encodes on a few threads; OpenCV lets go of the interpreter while it works."""

    def __init__(self, format_: str) -> None:
        self._format = format_
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="encode")

    async def encode(self, pixels: Pixels) -> Encoded:
        return await asyncio.get_running_loop().run_in_executor(self._pool, encode, pixels, self._format)

    def close(self) -> None:
        self._pool.shutdown(wait=False)
