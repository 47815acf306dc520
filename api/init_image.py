"""`init_image` as a client sends it: base64 in its many dialects, and what its header may announce. Pure; nothing is decoded here."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from api.normalise import invalid
from api.pictures.header import Header, header_of
from contracts.errors import InvalidRequest

FIELD: Final = "init_image"
_NO_BASE64: Final = "must be base64, alone or as data:image/png;base64,… (or jpeg, webp)"
# RFC 2397: a type and parameters, in any case. What the file is, its bytes say; a browser that does not know says octet-stream.
_DATA_URL: Final = re.compile(
    rb"\s*data:(?:image/[\w.+-]+|application/octet-stream)?(?:;[^;,]*)*?;\s*base64\s*,",
    re.ASCII | re.IGNORECASE,
)
MAX_HEAD_CHARS: Final = 256
"""Of a data URL, up to its comma."""
_WHITE: Final = b" \t\r\n\v\f"
# RFC 4648, 5: the alphabet that is safe in URLs.
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class SourcePicture:
    """A file that a client sent, and what its header announces."""

    data: bytes
    header: Header


@dataclass(frozen=True, slots=True)
class InitImage:
    """A PNG of exactly the size that is drawn, RGB, and the name that it has in every blob store."""

    name: str
    data: bytes
    warnings: tuple[str, ...] = ()


def longest_text(max_bytes: int) -> int:
    """The most characters in which a file of `max_bytes` may come: base64 with line breaks, as a data URL."""
    encoded = (max_bytes + 2) // 3 * 4
    # A line has 64 characters at least, and two for its end, which take two each in JSON.
    return encoded + encoded // 64 * 4 + MAX_HEAD_CHARS


def read(text: str, *, max_bytes: int, max_pixels: int) -> SourcePicture:
    """The file in `text`, base64 or a data URL: white space, line breaks, either alphabet, with padding or without.

    Raises `InvalidRequest` for what is no PNG, JPEG or WebP, and for more bytes, or more pixels in its header, than are allowed:
    nothing larger is ever decoded.
    """
    data = _bytes(text, max_bytes)
    header = header_of(data)
    if header is None:
        raise fault("must be a PNG, JPEG or WebP")
    if header.width * header.height > max_pixels:
        raise fault(f"must have at most {max_pixels} pixels, not {header.width} x {header.height}")
    return SourcePicture(data, header)


def _bytes(text: str, limit: int) -> bytes:
    try:
        encoded = text.encode("ascii")
    except UnicodeEncodeError:
        raise fault(_NO_BASE64) from None
    if head := _DATA_URL.match(encoded, 0, MAX_HEAD_CHARS):
        encoded = encoded[head.end() :]
        if b"%" in encoded:
            encoded = unquote_to_bytes(encoded)
    digits = encoded.translate(_STANDARD, _WHITE)
    bare = digits.rstrip(b"=")
    # Before it is decoded: four characters for three bytes.
    if len(bare) * 3 // 4 > limit:
        raise fault(f"must be at most {limit} bytes long")
    try:
        return base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise fault(_NO_BASE64) from None


def fault(says: str) -> InvalidRequest:
    """What is wrong with the picture, as the client hears it."""
    return invalid([(FIELD, f"{FIELD} {says}.")])
