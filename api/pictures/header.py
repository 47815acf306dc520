"""The header of a PNG, JPEG or WebP: what is known of an image before it is decoded, and the memory
that decoding takes. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from api.pictures.cover import Size, cover, draft_scale

MIB: Final = 1 << 20
BAND_PIXELS: Final = 1 << 18
"""How many pixels are converted at once."""
WORK_BYTES: Final = 16 * MIB
"""The memory that a decode takes at any size: the file, tables, and one band in several modes."""
WEBP_BYTES: Final = 17
"""Bytes per pixel of a WebP, measured with Pillow 13: two canvases and the frame of libwebp, and
Pillow's own; some more if it is lossless."""
JPEG_BLOCK: Final = 32
"""The side of the blocks for which JPEG keeps coefficients, in pixels: 8, at most four times subsampled."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes of a file announce.

    `components` is the number of stored channels, `depth` their bits.
    """

    format: Literal["PNG", "JPEG", "WEBP"]
    width: int
    height: int
    components: int = 3
    depth: int = 8
    whole: bool = False
    """JPEG: all coefficients are kept until the last scan, at any decoded size. 16-bit PNG: decoded
    twice, because one colour is transparent."""

    @property
    def size(self) -> Size:
        """The width and height in pixels."""
        return self.width, self.height

    def memory_bytes(self, target: Size) -> int:
        """The most bytes of memory that it takes to make an image of the `target` size of this
        file, besides the process itself."""
        # Whether the image is turned by 90 degrees is known only later.
        return max(self._memory(target), self._memory((target[1], target[0])))

    def _memory(self, target: Size) -> int:
        size, decoded = self.size, 0
        match self.format:
            case "WEBP":
                decoded = WEBP_BYTES * self.width * self.height
            case "PNG":
                decoded = self._png_pixel() * self.width * self.height
            case "JPEG":
                if self.whole:
                    blocks = math.prod(-(-side // JPEG_BLOCK) * JPEG_BLOCK for side in size)
                    decoded = 2 * self.components * blocks
                scale = draft_scale(size, target)
                size = -(-self.width // scale), -(-self.height // scale)
                decoded += (1 if self.components == 1 else 4) * size[0] * size[1]
        part = cover(size, target)
        averaged = math.prod(part.reduced)
        # First: the whole image, and the averaged one. Later: the averaged one in sRGB, on white,
        # and both at once; its rows after Lanczos; and the result while it is made, turned, and as
        # a file.
        later = 16 * averaged + 4 * target[0] * part.reduced[1] + 16 * target[0] * target[1]
        return max(decoded + 4 * averaged, later) + WORK_BYTES

    def _png_pixel(self) -> int:
        """Bytes of a PNG's pixel in Pillow's memory."""
        if self.components == 1:
            return 2 if self.depth == 16 else 1
        return 8 if self.whole else 4


def header_of(data: bytes) -> Header | None:
    """The header of the file `data`; None: it is no PNG, JPEG or WebP, or ends before its size."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _png(data: bytes) -> Header | None:
    """Portable Network Graphics (third edition), 11.2.1: the header is the first chunk."""
    if data[12:16] != b"IHDR" or len(data) < 29:
        return None
    depth, kind = data[24], data[25]
    # Bit 0: a palette, bit 1: colour, bit 2: alpha.
    components = (3 if kind == 2 else 1) if kind in (0, 2, 3) else 4
    keyed = kind == 2 and depth == 16 and b"tRNS" in data
    return _sized(Header("PNG", _big(data[16:20]), _big(data[20:24]), components, depth, keyed))


def _jpeg(data: bytes) -> Header | None:
    """ITU-T T.81, B.2: the header of the frame is in a segment before the first scan."""
    at, frame, progressive = 2, b"", False
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at += 1  # a stray byte between segments; Pillow skips it too
            continue
        marker = data[at + 1]
        if marker == 0xFF or marker == 0 or marker == 1 or 0xD0 <= marker <= 0xD8:
            # A fill byte, or a marker without contents. 0xFF may begin the next marker.
            at += 1 if marker == 0xFF else 2
            continue
        length = _big(data[at + 2 : at + 4])
        body = data[at + 4 : at + 2 + length]
        if marker == 0xDA:
            if len(frame) < 6 or not body:
                return None
            components = frame[5]
            whole = progressive or body[0] < components
            header = Header("JPEG", _big(frame[3:5]), _big(frame[1:3]), components, frame[0], whole)
            return _sized(header)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame, progressive = body, marker in (0xC2, 0xC6, 0xCA, 0xCE)
        at += 2 + max(length, 2)
    return None


def _webp(data: bytes) -> Header | None:
    """RFC 9649, 2: the size is that of the canvas in an extended file, else that of the frame."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return _sized(Header("WEBP", _little(body[4:7]) + 1, _little(body[7:10]) + 1))
    if kind == b"VP8L":
        bits = _little(body[1:5])
        return _sized(Header("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
    if kind == b"VP8 ":
        return _sized(Header("WEBP", _little(body[6:8]) & 0x3FFF, _little(body[8:10]) & 0x3FFF))
    return None


def _sized(header: Header) -> Header | None:
    return header if header.width and header.height else None


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
