"""Pixels to files, off the device's thread, as each job asks.

The encoder of each format is the fastest of those measured (`benchmarks/encode.py`): our own writer on ISA-L for PNG, OpenCV's
libjpeg-turbo for JPEG, and Pillow for WebP, because OpenCV's has no way to ask for less effort.
"""

from __future__ import annotations

import asyncio
import io
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from PIL import Image

from contracts.engine import Pixels
from contracts.jobs import DEFAULT_QUALITY, GenerationRequest
from telemetry import metrics
from worker.metadata import KEYWORD, exif, parameters
from worker.png import png

THREADS: Final = 2
WEBP_METHOD: Final = 0
"""libwebp's least effort: a third of the time of its default, for a file hardly larger."""

cv2.setNumThreads(1)


@dataclass(frozen=True, slots=True)
class Output:
    """How to write one picture; `text` goes inside, where there is any."""

    format: str = "png"
    quality: int = DEFAULT_QUALITY
    lossless: bool = False
    text: str | None = None

    @classmethod
    def of(cls, request: GenerationRequest, index: int) -> Output:
        """How picture `index` of the request is to be written."""
        return cls(
            request.output_format,
            request.output_quality,
            request.lossless,
            parameters(request, index) if request.embed_metadata else None,
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture file; `format` is also its extension."""

    data: bytes
    format: str
    encode_ms: float

    @property
    def content_type(self) -> str:
        return f"image/{self.format}"


def encode(pixels: Pixels, output: Output) -> Encoded:
    """`pixels` as a file. Raises `ValueError` for a format that is none of png, jpeg and webp."""
    begun = time.perf_counter()
    rgb = np.frombuffer(pixels.rgb, np.uint8).reshape(pixels.height, pixels.width, 3)
    match output.format:
        case "png":
            data = png(rgb, None if output.text is None else (KEYWORD, output.text))
        case "jpeg":
            data = _jpeg(rgb, output)
        case "webp":
            data = _webp(rgb, output)
        case _:
            raise ValueError(f"No encoder writes {output.format}.")
    seconds = time.perf_counter() - begun
    metrics.ENCODE_SECONDS.observe(seconds)
    return Encoded(data, output.format, seconds * 1000)


class Encoder:
    """Encodes on a few threads; the libraries let go of the interpreter while they work."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="encode")

    async def encode(self, pixels: Pixels, output: Output) -> Encoded:
        return await asyncio.get_running_loop().run_in_executor(self._pool, encode, pixels, output)

    def close(self) -> None:
        self._pool.shutdown(wait=False)


def _jpeg(rgb: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], output: Output) -> bytes:
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpeg", bgr, [cv2.IMWRITE_JPEG_QUALITY, output.quality])
    if not done:
        raise ValueError("OpenCV cannot write jpeg.")
    data: bytes = encoded.tobytes()
    if output.text is None:
        return data
    # An APP1 segment behind the start of the image; its length counts itself.
    segment = exif(output.text)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def _webp(rgb: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], output: Output) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(
        file,
        "WEBP",
        method=WEBP_METHOD,
        lossless=output.lossless,
        # For a lossless file the quality is the effort.
        quality=0 if output.lossless else output.quality,
        exif=b"" if output.text is None else exif(output.text),
    )
    return file.getvalue()


def rgb(file: bytes) -> bytes:
    """The pixels of a picture that the API has prepared, as `contracts.engine.Pixels` holds them."""
    with Image.open(io.BytesIO(file), formats=("PNG",)) as picture:
        return picture.convert("RGB").tobytes()
