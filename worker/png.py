"""Fast PNG files (https://www.w3.org/TR/png-3/) of RGB pixels: one filter, and ISA-L's deflate.

Pillow spends its time on choosing a filter per row, and in zlib. This writer computes the Up filter
over all rows at once. Intel's ISA-L (`isal`) deflates about ten times as fast as zlib. Together
they take a thirtieth of Pillow's time, and files are at most a quarter larger.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

LEVEL: Final = 1
"""ISA-L's compression level. Level 0 is hardly faster, and its files are a third larger."""

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_UP: Final = 2
_TRUECOLOUR: Final = 2


def png(rgb: npt.NDArray[np.uint8], text: tuple[str, str] | None = None) -> bytes:
    """A PNG file of `rgb`, uint8 of shape `(H, W, 3)`.

    `text` is a keyword and a value to store in it.
    """
    height, width, _ = rgb.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _TRUECOLOUR, 0, 0, 0)
    parts = [_SIGNATURE, _chunk(b"IHDR", header)]
    if text is not None:
        parts.append(_text(*text))
    parts += [_chunk(b"IDAT", isal_zlib.compress(_filtered(rgb), LEVEL)), _chunk(b"IEND", b"")]
    return b"".join(parts)


def _filtered(rgb: npt.NDArray[np.uint8]) -> memoryview[Any]:
    """The rows under the Up filter: a filter byte, then each row minus the row above it."""
    height, width, _ = rgb.shape
    rows = rgb.reshape(height, width * 3)
    out = np.empty((height, width * 3 + 1), np.uint8)
    out[:, 0] = _UP
    out[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=out[1:, 1:])
    return out.data


def _text(keyword: str, value: str) -> bytes:
    """A text chunk: `tEXt`, which every reader knows, if Latin-1 will do; else `iTXt`, in UTF-8."""
    try:
        return _chunk(b"tEXt", keyword.encode("latin-1") + b"\0" + value.encode("latin-1"))
    except UnicodeEncodeError:
        return _chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + value.encode("utf-8"))


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = isal_zlib.crc32(data, isal_zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
