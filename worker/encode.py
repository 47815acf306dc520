"""Pixels to files, off the device's thread, as each job asks. Where pictures lie in a directory, the thread that encodes one also names
and writes it.

PNG has a writer of our own on ISA-L, which is the fastest of those measured (`benchmarks/encode.py`). JPEG and WebP are
Pillow's, on libjpeg-turbo and libwebp.
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
"""Pictures that are encoded at a time, which takes a core each."""
THREADS: Final = 8
"""The others of them wait for the disk."""
LARGEST_SEGMENT: Final = 65_533
"""Bytes of a JPEG's segment, its length of two not counted."""
NO_ROOM: Final = "embed_metadata: the parameters are longer than a JPEG can hold, and were left out. PNG and WebP have room."
TOGETHER_S: Final = 0.004
"""A file waits no longer than this for others that are being encoded. Files that are ready together end their jobs in one call."""
WEBP_METHOD: Final = 0
"""libwebp's least effort: a third of the time of its default, for a file hardly larger."""


@dataclass(frozen=True, slots=True)
class Output:
    """How to write one picture; `text` goes inside, where there is any."""

    format: str = "png"
    quality: int = DEFAULT_QUALITY
    lossless: bool = False
    text: str | None = None

    @classmethod
    def of(cls, request: GenerationRequest, index: int, sampler: str = "", schedule_type: str = "") -> Output:
        """How picture `index` of the request is to be written; the solver's names go into the text."""
        return cls(
            request.output_format,
            request.output_quality,
            request.lossless,
            parameters(request, index, sampler, schedule_type) if request.embed_metadata else None,
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture file; `format` is also its extension. `warnings` say what of the `Output` was not done."""

    data: bytes
    format: str
    encode_ms: float
    warnings: tuple[str, ...] = ()
    name: str | None = None
    """Under which it has been stored already."""

    @property
    def content_type(self) -> str:
        return f"image/{self.format}"


def encode(pixels: Pixels, output: Output) -> Encoded:
    """`pixels` as a file. Raises `ValueError` for a format that is none of png, jpeg and webp."""
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
    """Encodes on a few threads; the libraries let go of the interpreter while they work."""

    def __init__(self, write: Callable[[bytes, str], str] | None = None) -> None:
        """`write` stores a file under the name that it answers, and may take its time; see `DirectoryBlobStore.write`. None: whoever
        asked for the file stores it."""
        self._write = write
        self._cores = threading.Semaphore(AT_A_TIME)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="encode")
        self._lock = threading.Lock()
        """Guards what is below."""
        self._busy = 0
        """Images that are waiting for a thread, or on one."""
        self._ready: list[tuple[asyncio.Future[Encoded], Encoded | BaseException]] = []
        """Files that the event loop has not been given yet."""
        self._due = False
        """Whether the event loop will ask for them as soon as it can."""

    def encode(
        self, pixels: Pixels, output: Output, unwanted: Callable[[], bool] = lambda: False
    ) -> asyncio.Future[Encoded]:
        """The picture as a file. It has no `name` where it could not be stored: the file is there, and whoever asked may try again.
        Nor is it stored where by then it is `unwanted`, which a thread asks, or its future is canceled: nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        encoded: asyncio.Future[Encoded] = loop.create_future()
        with self._lock:
            self._busy += 1
        try:
            self._pool.submit(self._work, pixels, output, unwanted, encoded, loop)
        except RuntimeError:  # it is closed
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
        """On a thread of the pool. Not `run_in_executor`: three futures for each picture would cost as much as its PNG."""
        told: Encoded | BaseException
        try:
            told = self._encode(pixels, output, lambda: encoded.cancelled() or unwanted())
        except BaseException as error:  # noqa: BLE001 - whoever waits for it hears of it
            told = error
        with self._lock:
            self._busy -= 1
            self._ready.append((encoded, told))
            last, first = not self._busy and not self._due, len(self._ready) == 1
            self._due |= last
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            if last:
                loop.call_soon_threadsafe(self._deliver)
            elif first:
                loop.call_soon_threadsafe(loop.call_later, TOGETHER_S, self._deliver)

    def _deliver(self) -> None:
        """On the event loop: hands out the files that are ready."""
        with self._lock:
            ready, self._ready, self._due = self._ready, [], False
        for encoded, told in ready:
            _tell(encoded, told)

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
        self._pool.shutdown(wait=False)


def _tell(encoded: asyncio.Future[Encoded], told: Encoded | BaseException) -> None:
    if encoded.done():
        return  # it was canceled
    if isinstance(told, Encoded):
        encoded.set_result(told)
    else:
        encoded.set_exception(told)


def _jpeg(rgb: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], output: Output) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=output.quality)
    return file.getvalue()


def _with_text(file: bytes, segment: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The JPEG with an APP1 segment behind the start of the image, whose length counts itself; and warnings."""
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
        # For a lossless file the quality is the effort.
        quality=0 if output.lossless else output.quality,
        exif=b"" if output.text is None else exif(output.text, rgb.shape[1], rgb.shape[0]),
    )
    return file.getvalue()


def rgb(file: bytes, width: int, height: int) -> bytes:
    """The pixels of a picture that the API has prepared, as `contracts.engine.Pixels` holds them. Raises `OutOfBounds` for one of
    another size, before it is decoded."""
    with Image.open(io.BytesIO(file), formats=("PNG",)) as picture:
        if picture.size != (width, height):
            raise OutOfBounds(f"init_image must be {width}x{height}, not {picture.width}x{picture.height}.")
        return picture.convert("RGB").tobytes()
