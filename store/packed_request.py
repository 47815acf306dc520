"""A request as its job's record holds it: JSON, and compressed where its texts are long.

A packed one is JSON as well, `{"min_schema":1,"zlib":"..."}`, with zlib (RFC 1950) in base 85: `lua/take.lua` reads `min_schema` off
either form. Most requests are short, and cost nothing.
"""

from __future__ import annotations

import base64
import zlib
from typing import Final

from pydantic import Field

from contracts.documents import Versioned
from contracts.requests import GenerationRequest

PACK_FROM_CHARS: Final = 1024
"""Shorter ones would gain little."""
LEVEL: Final = 1
"""The fastest: on texts of this size the slowest gains a tenth more, and takes four times as long."""
MAX_BYTES: Final = 1 << 20
"""Far above what the limits of a request allow."""


class _Packed(Versioned):
    zlib: str = Field(repr=False)


def pack(request: GenerationRequest) -> str:
    """The text to store. Pure."""
    plain = request.model_dump_json()
    if len(plain) < PACK_FROM_CHARS:
        return plain
    squeezed = base64.b85encode(zlib.compress(plain.encode(), LEVEL)).decode("ascii")
    packed = _Packed(min_schema=request.min_schema, zlib=squeezed)
    # Written out, for a reader in Lua must find `min_schema` where it is 1 as well, and first.
    text = f'{{"min_schema":{packed.min_schema},"zlib":"{packed.zlib}"}}'
    return text if len(text) < len(plain.encode()) else plain


def unpack(text: str) -> GenerationRequest:
    """The request of a stored text, packed or not. Raises `ValueError` for what is neither."""
    return GenerationRequest.model_validate_json(plain_json(text))


def plain_json(text: str) -> str | bytes:
    """The JSON of a stored text, packed or not. Raises `ValueError` for a packed one that is damaged."""
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
