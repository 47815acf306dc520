"""A picture to start from, as a client sends it: looked at before it is decoded, and brought to the size that is drawn. Pure."""

from __future__ import annotations

import base64
import binascii
import io
import re
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from api.normalise import invalid
from cache.blobs import blob_name
from contracts.errors import InvalidRequest

FORMATS: Final = ("PNG", "JPEG", "WEBP")
FIELD: Final = "init_image"
_DATA_URL: Final = re.compile(r"data:image/(?:png|jpeg|webp);base64,", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class InitImage:
    """A PNG of exactly the size that is drawn, RGB, and the name that it has in every blob store."""

    name: str
    data: bytes


def prepare(text: str, width: int, height: int, *, max_bytes: int, max_pixels: int) -> InitImage:
    """`text`, base64 or a data URL, as a picture of `width` x `height`: turned upright, on white, scaled to cover, cut at its centre.

    Raises `InvalidRequest` for what is no PNG, JPEG or WebP, and for more bytes, or more pixels in its header, than are allowed:
    nothing larger is ever decoded.
    """
    data = _bytes(text, max_bytes)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as source:
            if source.width * source.height > max_pixels:
                raise _fault(f"must have at most {max_pixels} pixels, not {source.width} x {source.height}")
            # A JPEG is decoded at a fraction of its size where that is enough.
            source.draft("RGB", (width, height))
            upright = ImageOps.exif_transpose(source)
            picture = ImageOps.fit(_on_white(upright), (width, height), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise _fault("must be a PNG, JPEG or WebP") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, ZeroDivisionError):
        # Pillow raises any of these for files that are cut short or forged.
        raise _fault("cannot be decoded: the file is damaged") from None
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    made = out.getvalue()
    return InitImage(blob_name(made, "png"), made)


def _bytes(text: str, limit: int) -> bytes:
    found = _DATA_URL.match(text)
    encoded = text[found.end() :] if found else text
    # Before it is decoded: four characters for three bytes.
    if len(encoded) > (limit + 2) // 3 * 4:
        raise _fault(f"must be at most {limit} bytes long")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise _fault("must be base64, alone or as data:image/png;base64,… (or jpeg, webp)") from None


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        seen = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return picture.convert("RGB")


def _fault(says: str) -> InvalidRequest:
    return invalid([(FIELD, f"{FIELD} {says}.")])
