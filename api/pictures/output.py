"""What a decoded image becomes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

Format = Literal["PNG", "JPEG", "WEBP"]

Output = Literal["cut", "query", "stored"]
"""A PNG of exactly the wanted size, cut at the centre; a PNG of the whole image; or the whole image in the
format of the file that was sent."""

EXTENSIONS: Final[Mapping[Format, str]] = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp"}
"""The endings of names in the blob store."""
ONCE: Final[Mapping[str, Any]] = {"format": "PNG", "compress_level": 1}
"""How Pillow writes a file that is read once."""
STORED: Final[Mapping[Format, Mapping[str, Any]]] = {
    "PNG": {"format": "PNG", "compress_level": 6},
    "JPEG": {"format": "JPEG", "quality": 90},
    "WEBP": {"format": "WEBP", "quality": 90, "method": 4},
}
"""How Pillow writes a stored image, by the format of the file that was sent."""
