"""A request as its job's record holds it: JSON, compressed if its texts are long.

A packed request is JSON as well, `{"min_schema":1,"zlib":"..."}`, with zlib (RFC 1950) in base 85.
`lua/take.lua` reads `min_schema` from either form. Most requests are short, and are stored as they
are.
"""

from __future__ import annotations

import base64
import zlib
from typing import Final

from pydantic import Field

from contracts.documents import Versioned
from contracts.requests import GenerationRequest

PACK_FROM_CHARS: Final = 1024
"""Shorter requests would gain little."""
LEVEL: Final = 1
"""The fastest. On texts of this size the slowest level saves a tenth more and takes four times as
long."""
MAX_BYTES: Final = 1 << 20
"""Decompressed bytes at most: far above what the limits of a request allow."""


class _Packed(Versioned):
    zlib: str = Field(repr=False)


def pack(request: GenerationRequest) -> str:
    """The text to store for the request. Pure."""
    plain = request.model_dump_json()
    if len(plain) < PACK_FROM_CHARS:
        return plain
    compressed = base64.b85encode(zlib.compress(plain.encode(), LEVEL)).decode("ascii")
    packed = _Packed(min_schema=request.min_schema, zlib=compressed)
    # Written by hand, because `lua/take.lua` must find `min_schema` first, even where it is 1.
    text = f'{{"min_schema":{packed.min_schema},"zlib":"{packed.zlib}"}}'
    return text if len(text) < len(plain.encode()) else plain


def unpack(text: str) -> GenerationRequest:
    """The request in a stored text, packed or not. Raises `ValueError` if it is neither."""
    return GenerationRequest.model_validate_json(plain_json(text))


def plain_json(text: str) -> str | bytes:
    """The JSON in a stored text, packed or not. Raises `ValueError` if a packed one is damaged."""
    if not text.startswith('{"min_schema":') or '"zlib":' not in text[:40]:
        return text
    packed = _Packed.model_validate_json(text)
    reader = zlib.decompressobj()
    try:
        plain = reader.decompress(base64.b85decode(packed.zlib), MAX_BYTES)
    except zlib.error as error:
        raise ValueError("The packed request is damaged.") from error
    if not reader.eof:
        raise ValueError("The packed request is damaged, or too long.")
    return plain
