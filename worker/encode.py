"""Encodes pixels as files, on a pool of threads, in the format that a job asks for.

Where images are stored in a folder, the thread that encodes one also names and writes its file.
`worker.png` writes PNG with ISA-L, the fastest of the writers measured (`benchmarks/encode.py`).
Pillow writes JPEG and WebP, with libjpeg-turbo and libwebp.
"""

from __future__ import annotations

import asyncio
import io
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from PIL import Image

from contracts.engine import Pixels
from contracts.errors import BlobStoreUnavailable
from contracts.failures import OutOfBounds
from contracts.requests import DEFAULT_QUALITY, GenerationRequest
from telemetry import metrics
from worker.exif import exif
from worker.metadata import KEYWORD, parameters
from worker.png import png

AT_A_TIME: Final = 2
"""Images that are encoded at the same time. Each takes a core."""
THREADS: Final = 8
"""Threads of the pool. Those that do not encode wait for the disk."""
LARGEST_SEGMENT: Final = 65_533
"""The most bytes of a JPEG segment, without its two bytes of length."""
NO_ROOM: Final = "embed_metadata: the parameters are longer than a JPEG can hold, and were left out. PNG and WebP have room."
TOGETHER_S: Final = 0.004
"""How long a file waits for others that are being encoded.

Files that are delivered together end their jobs in one call of the store.
"""
WEBP_METHOD: Final = 0
"""libwebp's least effort. It takes a third of the default's time, and files are hardly larger."""


@dataclass(frozen=True, slots=True)
class Output:
    """How to write one image file. `text` is its metadata; None: the file has none."""

    format: str = "png"
    quality: int = DEFAULT_QUALITY
    lossless: bool = False
    text: str | None = None

    @classmethod
    def of(cls, request: GenerationRequest, index: int, sampler: str = "", schedule_type: str = "") -> Output:
        """How to write image `index` of the request. The solver's names go into the text."""
        return cls(
            request.output_format,
            request.output_quality,
            request.lossless,
            parameters(request, index, sampler, schedule_type) if request.embed_metadata else None,
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image file.

    `format` is also its extension. `warnings` say what of the `Output` was left out.
    """

    data: bytes
    format: str
    encode_ms: float
    warnings: tuple[str, ...] = ()
    name: str | None = None
    """The name it is stored under; None: it is not stored yet."""

    @property
    def content_type(self) -> str:
        """The media type of the file."""
        return f"image/{self.format}"


def encode(pixels: Pixels, output: Output) -> Encoded:
    """Encode `pixels` as a file. Raises `ValueError` for a format other than png, jpeg and webp."""
    begun = time.perf_counter()
    warnings: tuple[str, ...] = ()
    rgb = np.frombuffer(pixels.rgb, np.uint8).reshape(pixels.height, pixels.width, 3)
    match output.format:
        case "png":
            data = png(rgb, None if output.text is None else (KEYWORD, output.text))
        case "jpeg":
            data = _jpeg(rgb, output)
            if output.text is not None:
                data, warnings = _with_text(data, exif(output.text, pixels.width, pixels.height))
        case "webp":
            data = _webp(rgb, output)
        case _:
            raise ValueError(f"No encoder writes {output.format}.")
    seconds = time.perf_counter() - begun
    metrics.ENCODE_SECONDS.observe(seconds)
    return Encoded(data, output.format, seconds * 1000, warnings)


class Encoder:
    """Encodes on a few threads. The libraries release the interpreter lock while they work."""

    def __init__(self, write: Callable[[bytes, str], str] | None = None) -> None:
        """`write` stores a file on the encoding thread, and answers its name.

        It is `DirectoryBlobStore.write`. None: the caller of `encode` stores the file.
        """
        self._write = write
        self._cores = threading.Semaphore(AT_A_TIME)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="encode")
        self._lock = threading.Lock()
        """Guards the attributes below."""
        self._busy = 0
        """Images that wait for a thread, or are on one."""
        self._ready: list[tuple[asyncio.Future[Encoded], Encoded | BaseException]] = []
        """Files, or errors, that the event loop does not have yet."""
        self._delivery_scheduled = False
        """Whether the event loop will deliver them at its next round."""

    def encode(
        self, pixels: Pixels, output: Output, unwanted: Callable[[], bool] = lambda: False
    ) -> asyncio.Future[Encoded]:
        """Encode an image. Answers a future of its file.

        The file has no `name` if it is not stored, and the caller may store it then. It is not
        stored if the store fails, if `unwanted` (called on a thread) answers true, or if the future
        is canceled. The future raises what `encode` raises. Raises `RuntimeError` after `close`.
        """
        loop = asyncio.get_running_loop()
        encoded: asyncio.Future[Encoded] = loop.create_future()
        with self._lock:
            self._busy += 1
        try:
            self._pool.submit(self._work, pixels, output, unwanted, encoded, loop)
        except RuntimeError:  # the pool is closed
            with self._lock:
                self._busy -= 1
            raise
        return encoded

    def _work(
        self,
        pixels: Pixels,
        output: Output,
        unwanted: Callable[[], bool],
        encoded: asyncio.Future[Encoded],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """On a thread of the pool: encode one image, and schedule its delivery.

        `run_in_executor` would make three futures for each image, which cost as much as its PNG.
        """
        outcome: Encoded | BaseException
        try:
            outcome = self._encode(pixels, output, lambda: encoded.cancelled() or unwanted())
        except BaseException as error:  # noqa: BLE001 - the future raises it
            outcome = error
        with self._lock:
            self._busy -= 1
            self._ready.append((encoded, outcome))
            last, first = not self._busy and not self._delivery_scheduled, len(self._ready) == 1
            self._delivery_scheduled |= last
        with suppress(RuntimeError):  # the loop is closed, and nothing waits
            if last:
                loop.call_soon_threadsafe(self._deliver)
            elif first:
                loop.call_soon_threadsafe(loop.call_later, TOGETHER_S, self._deliver)

    def _deliver(self) -> None:
        """On the event loop: resolve the futures of all files that are ready."""
        with self._lock:
            ready, self._ready, self._delivery_scheduled = self._ready, [], False
        for encoded, outcome in ready:
            _resolve(encoded, outcome)

    def _encode(self, pixels: Pixels, output: Output, unwanted: Callable[[], bool]) -> Encoded:
        with self._cores:
            file = encode(pixels, output)
        if self._write is None or unwanted():
            return file
        try:
            with metrics.STORE_SECONDS.time():
                return replace(file, name=self._write(file.data, file.format))
        except BlobStoreUnavailable:
            return file

    def close(self) -> None:
        """Take no more images. Those that wait are still encoded."""
        self._pool.shutdown(wait=False)


def _resolve(encoded: asyncio.Future[Encoded], outcome: Encoded | BaseException) -> None:
    if encoded.done():
        return  # canceled
    if isinstance(outcome, Encoded):
        encoded.set_result(outcome)
    else:
        encoded.set_exception(outcome)


def _jpeg(rgb: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], output: Output) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=output.quality)
    return file.getvalue()


def _with_text(file: bytes, segment: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The JPEG with an APP1 segment after its start-of-image marker, and warnings.

    The segment's length field counts its own two bytes.
    """
    if len(segment) > LARGEST_SEGMENT:
        return file, (NO_ROOM,)
    return file[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + file[2:], ()


def _webp(rgb: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], output: Output) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(
        file,
        "WEBP",
        method=WEBP_METHOD,
        lossless=output.lossless,
        # In a lossless file, libwebp takes the quality for the effort.
        quality=0 if output.lossless else output.quality,
        exif=b"" if output.text is None else exif(output.text, rgb.shape[1], rgb.shape[0]),
    )
    return file.getvalue()


def rgb(file: bytes, width: int, height: int) -> bytes:
    """The pixels of a PNG that the API has prepared, in the layout of `contracts.engine.Pixels`.

    Raises `OutOfBounds` for another size, before the file is decoded.
    """
    with Image.open(io.BytesIO(file), formats=("PNG",)) as picture:
        if picture.size != (width, height):
            raise OutOfBounds(f"init_image must be {width}x{height}, not {picture.width}x{picture.height}.")
        return picture.convert("RGB").tobytes()
