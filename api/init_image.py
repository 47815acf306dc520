"""`init_image` as a client sends it: the variants of base64, and the bounds on what its header
announces. Pure; no pixel is decoded here."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from api.normalise import invalid
from api.pictures.header import Header, header_of
from contracts.errors import InvalidRequest

FIELD: Final = "init_image"
Unusable = Literal["base64", "bytes", "format", "pixels", "memory", "time", "damaged"]
"""Why an image is not used: how it is written; its size as a file; no image that we read; its size in
pixels; what decoding it takes; its data."""
_NO_BASE64: Final = "must be base64, alone or as data:image/png;base64,… (or jpeg, webp)"
# RFC 2397: a type and parameters, in any case. The bytes of the file say what it is. Browsers send
# octet-stream for types they do not know.
_DATA_URL: Final = re.compile(
    rb"\s*data:(?:image/[\w.+-]+|application/octet-stream)?(?:;[^;,]*)*?;\s*base64\s*,",
    re.ASCII | re.IGNORECASE,
)
MAX_HEAD_CHARS: Final = 256
"""The most characters of a data URL up to its comma."""
_WHITE: Final = b" \t\r\n\v\f"
# The URL-safe alphabet of RFC 4648, section 5.
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class SourcePicture:
    """A file that a client sent in `field`, and its header."""

    data: bytes
    header: Header
    field: str = FIELD


@dataclass(frozen=True, slots=True)
class InitImage:
    """The decoded init image: an RGB PNG of exactly the job's size (`data`), and its name in every
    blob store."""

    name: str
    data: bytes
    warnings: tuple[str, ...] = ()
    texts: str = ""
    """What the file says in words, if that was asked for: titles, descriptions, comments."""


def longest_text(max_bytes: int) -> int:
    """The most characters that a file of `max_bytes` takes as a data URL in base64 with line breaks."""
    encoded = (max_bytes + 2) // 3 * 4
    # A line has at least 64 characters. Its end has two more, each of which takes two in JSON.
    return encoded + encoded // 64 * 4 + MAX_HEAD_CHARS


def read(text: str, *, max_bytes: int, max_pixels: int, field: str = FIELD) -> SourcePicture:
    """The file in `text`, which is base64 or a data URL. White space, both alphabets and missing
    padding are accepted.

    Raises `InvalidRequest` if the file is no PNG, JPEG or WebP, has more than `max_bytes`, or
    announces more than `max_pixels`. Nothing larger is ever decoded.
    """
    data = _bytes(text, max_bytes, field)
    header = header_of(data)
    if header is None:
        raise fault("must be a PNG, JPEG or WebP", field, "format")
    if header.width * header.height > max_pixels:
        words = f"must have at most {max_pixels} pixels, not {header.width} x {header.height}"
        raise fault(words, field, "pixels")
    return SourcePicture(data, header, field)


def _bytes(text: str, limit: int, field: str) -> bytes:
    try:
        encoded = text.encode("ascii")
    except UnicodeEncodeError:
        raise fault(_NO_BASE64, field, "base64") from None
    if head := _DATA_URL.match(encoded, 0, MAX_HEAD_CHARS):
        encoded = encoded[head.end() :]
        if b"%" in encoded:
            encoded = unquote_to_bytes(encoded)
    digits = encoded.translate(_STANDARD, _WHITE)
    bare = digits.rstrip(b"=")
    # Checked before decoding: four characters make three bytes.
    if len(bare) * 3 // 4 > limit:
        raise fault(f"must be at most {limit} bytes long", field, "bytes")
    try:
        return base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise fault(_NO_BASE64, field, "base64") from None


def fault(words: str, field: str, reason: Unusable) -> InvalidRequest:
    """The error for an unusable image. `words` complete a sentence that begins with `field`.

    `reason` is for programs, as `details.reason`.
    """
    error = invalid([(field, f"{field} {words}.")])
    error.details = {**(error.details or {}), "reason": reason}
    return error
