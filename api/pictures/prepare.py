"""From an image file to the PNG that a worker reads, or to the file that is stored. Runs in the child process. Pure, except for
memory and time.

The file is decoded as a whole (a JPEG at a fraction of its size). The next steps go band by band
until the image is small. No second copy of the full size is made.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image, ImageChops

from api.pictures.colour import to_srgb
from api.pictures.cover import Cover, Size, cover
from api.pictures.header import BAND_PIXELS, Header
from api.pictures.output import ONCE, STORED, Output

FORMATS: Final = ("PNG", "JPEG", "WEBP")
"""The formats that Pillow may read."""
_ORIENTATION: Final = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""From an Exif orientation to what makes the image upright (Exif 2.32, 4.6.4)."""
_SIDEWAYS: Final = (5, 6, 7, 8)
_GREY_8: Final = [(value + 128) // 257 for value in range(65_536)]
"""From 16-bit grey to 8 bits: white is 65535, which is 257 x 255."""

Read = Callable[[tuple[int, int, int, int]], Image.Image]
"""Reads a box (left, top, right, bottom) of an image."""


class Unlike(ValueError):
    """The image is not what its header announced."""


@dataclass(frozen=True, slots=True)
class Made:
    """The new file, its size in pixels, and warnings for the owner of the image."""

    data: bytes
    size: Size
    warnings: list[str]


def prepare(data: bytes, header: Header, target: Size, output: Output = "cut") -> Made:
    """The image of the file `data`, upright, in sRGB, on white, scaled to `target`.

    If the output is `cut`, `target` is the size of the new file: the image covers it, and is cut at its
    centre. Else `target` has the shape of the file, before the image is turned upright. Raises errors
    of Pillow's for files that are cut short or forged, `Unlike`, and `MemoryError`.
    """
    result, warnings = _made(
        data, header, lambda turn: _upright_size(target, turn) if output == "cut" else target
    )
    out = io.BytesIO()
    result.save(out, **(STORED[header.format] if output == "stored" else ONCE))
    return Made(out.getvalue(), result.size, warnings)


def _made(data: bytes, header: Header, size_of: Callable[[int], Size]) -> tuple[Image.Image, list[str]]:
    """The image, upright, and warnings. `size_of` gives its size in the file, from its orientation."""
    small, part, turn, profile = _shrunk(data, header, size_of)
    coloured, warning = to_srgb(small, profile)
    del small
    result = _on_white(coloured).resize(size_of(turn), Image.Resampling.LANCZOS, box=part.inner)
    if turn in _TURNS:
        result = result.transpose(_TURNS[turn])
    return result, [] if warning is None else [warning]


def _shrunk(
    data: bytes, header: Header, size_of: Callable[[int], Size]
) -> tuple[Image.Image, Cover, int, bytes | None]:
    """The part of the image that is used, averaged; its position, its orientation, and its colour
    profile. The full image is freed."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        if picture.size != header.size:
            raise Unlike("the size of the image is not that of its header")
        turn = orientation(picture)
        size = size_of(turn)
        # A JPEG is decoded at a fraction of its size if that is enough.
        picture.draft(None, size)
        picture.load()
        part = cover(picture.size, size)
        return _averaged(_reader(picture, header, data), part), part, turn, picture.info.get("icc_profile")


def _upright_size(target: Size, turn: int) -> Size:
    """The target's size in the orientation of the file."""
    return (target[1], target[0]) if turn in _SIDEWAYS else target


def orientation(picture: Image.Image) -> int:
    """The Exif orientation of `picture`, 1 to 8; 1 if it has none or an invalid one."""
    # This is the only Exif field that is read. Faults in others do not matter.
    with suppress(Exception):
        value = picture.getexif().get(_ORIENTATION)
        if isinstance(value, int) and value in _TURNS:
            return value
    return 1


def _averaged(read: Read, part: Cover) -> Image.Image:
    """`part.outer` with blocks of `part.factor` pixels a side averaged, in L, RGB, RGBA or CMYK."""
    left, top, right, bottom = part.outer
    rows = max(1, BAND_PIXELS // ((right - left) * part.factor)) * part.factor
    small: Image.Image | None = None
    for row in range(top, bottom, rows):
        band = read((left, row, right, min(row + rows, bottom))).reduce(part.factor)
        if small is None:
            small = Image.new(band.mode, part.reduced)
        small.paste(band, (0, (row - top) // part.factor))
    if small is None:
        raise Unlike("the image has no pixels")
    return small


def _reader(picture: Image.Image, header: Header, data: bytes) -> Read:
    """A function that reads a box of the picture as L, RGB, RGBA or CMYK."""
    key = picture.info.get("transparency")
    match picture.mode:
        case "1" | "L" | "I;16" if key is not None:
            return lambda box: _keyed_grey(picture.crop(box), key, header)
        case "RGB" if key is not None:
            low = _low_bytes(data) if header.depth == 16 else None
            return lambda box: _keyed(picture.crop(box), None if low is None else low.crop(box), key)
        case "I;16":
            return lambda box: _grey_8(picture.crop(box))
        case "1":
            return lambda box: picture.crop(box).convert("L")
        case "L" | "RGB" | "CMYK" | "RGBA":
            return picture.crop
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    return lambda box: picture.crop(box).convert(mode)


def _grey_8(band: Image.Image) -> Image.Image:
    return band.convert("I").point(_GREY_8, "L")


def _keyed_grey(band: Image.Image, key: int, header: Header) -> Image.Image:
    """Grey with one transparent value (PNG, 11.3.1.1). The value is compared in the depth of the file."""
    if band.mode == "I;16":
        alpha = band.convert("I").point([0 if value == key else 255 for value in range(65_536)], "L")
        return _merged(_grey_8(band), alpha)
    grey = band.convert("L")
    # Pillow scales values of 2 and 4 bits to 8, but not the key. At one bit it scales both.
    seen = key if band.mode == "1" else key * 255 // (2**header.depth - 1)
    return _merged(grey, grey.point([0 if value == seen else 255 for value in range(256)]))


def _keyed(band: Image.Image, low: Image.Image | None, key: tuple[int, int, int]) -> Image.Image:
    """Colour with one transparent value. For 16 bits, `low` holds the low bytes."""
    alpha = _differs(band, key if low is None else tuple(value >> 8 for value in key))
    if low is not None:
        alpha = ImageChops.lighter(alpha, _differs(low, tuple(value & 255 for value in key)))
    return Image.merge("RGBA", (*band.split(), alpha))


def _differs(band: Image.Image, key: tuple[int, ...]) -> Image.Image:
    """255 where any channel differs from the key, else 0."""
    red, green, blue = (
        channel.point([0 if value == wanted else 255 for value in range(256)])
        for channel, wanted in zip(band.split(), key, strict=True)
    )
    return ImageChops.lighter(ImageChops.lighter(red, green), blue)


def _low_bytes(data: bytes) -> Image.Image:
    """The low bytes of a PNG of 16-bit colour.

    Pillow keeps only the high bytes. It reads the low ones if it takes the file for one of the
    other byte order.
    """
    picture = Image.open(io.BytesIO(data), formats=("PNG",))
    tile: Any = picture
    tile.tile = [part._replace(args="RGB;16L") for part in tile.tile]
    picture.load()
    return picture


def _merged(grey: Image.Image, alpha: Image.Image) -> Image.Image:
    return Image.merge("RGBA", (grey, grey, grey, alpha))


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
