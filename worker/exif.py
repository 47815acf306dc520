"""Exif data that holds one text, as its UserComment (CIPA DC-008-2019, "Exif 2.32").

Pillow gives UserComment the type BYTE where the standard has UNDEFINED. It also leaves out other
tags that the standard requires. The byte order is big-endian, as A1111's web UI writes it: its
readers assume UTF-16 in that order without a check.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_SHORT: Final = 3
_LONG: Final = 4
_RATIONAL: Final = 5
_UNDEFINED: Final = 7
_HEADER: Final = b"Exif\0\0"
_FIRST: Final = 8
"""Offset of the first directory in bytes, counted from the byte-order mark."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A directory entry: the tag, and its value as bytes."""

    tag: int
    type: int
    count: int
    value: bytes


def exif(text: str, width: int, height: int) -> bytes:
    """Exif data of an image of `width` x `height` pixels. It begins with `Exif\\0\\0`.

    The text is UTF-16 after an eight-byte character code (4.6.5, table 9).
    """
    comment = b"UNICODE\0" + text.encode("utf-16-be")
    inch = struct.pack(">II", 72, 1)

    def first(pointer: int) -> list[_Entry]:
        return [
            _Entry(0x011A, _RATIONAL, 1, inch),  # XResolution
            _Entry(0x011B, _RATIONAL, 1, inch),  # YResolution
            _short(0x0128, 2),  # ResolutionUnit: inch
            _short(0x0213, 1),  # YCbCrPositioning: centred
            _Entry(0x8769, _LONG, 1, struct.pack(">I", pointer)),
        ]

    own = [
        _Entry(0x9000, _UNDEFINED, 4, b"0232"),  # ExifVersion
        _Entry(0x9101, _UNDEFINED, 4, b"\1\2\3\0"),  # ComponentsConfiguration: Y, Cb, Cr
        _Entry(0x9286, _UNDEFINED, len(comment), comment),  # UserComment
        _Entry(0xA000, _UNDEFINED, 4, b"0100"),  # FlashpixVersion
        _short(0xA001, 1),  # ColorSpace: sRGB
        _Entry(0xA002, _LONG, 1, struct.pack(">I", width)),  # PixelXDimension
        _Entry(0xA003, _LONG, 1, struct.pack(">I", height)),  # PixelYDimension
    ]
    second = _FIRST + len(_directory(first(0), _FIRST))
    return (
        _HEADER
        + struct.pack(">2sHI", b"MM", 42, _FIRST)
        + _directory(first(second), _FIRST)
        + _directory(own, second)
    )


def _short(tag: int, value: int) -> _Entry:
    return _Entry(tag, _SHORT, 1, struct.pack(">HH", value, 0))


def _directory(entries: Sequence[_Entry], at: int) -> bytes:
    """An image file directory (TIFF 6.0, section 2) at offset `at`, in bytes.

    Values that are too long for an entry follow the directory.
    """
    rows, values = [struct.pack(">H", len(entries))], b""
    base = at + 2 + 12 * len(entries) + 4
    for entry in entries:
        value = entry.value
        if len(value) > 4:
            # A value begins at an even offset.
            value, values = struct.pack(">I", base + len(values)), values + value + b"\0" * (len(value) % 2)
        rows.append(struct.pack(">HHI4s", entry.tag, entry.type, entry.count, value))
    return b"".join(rows) + struct.pack(">I", 0) + values
