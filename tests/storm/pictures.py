"""Source pictures of forty kinds: modes, depths, profiles, orientations, interlace, palettes, animation, small and large. Pure: a
kind and a random generator make one file, always the same."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any, Final

from PIL import Image, ImageCms, ImageDraw

from tests.storm import png

MAX_SIDE: Final = 160
LARGE: Final = 2048
"""Side of the large ones: four megapixels, which compress to a few kilobytes."""
ORIENTATION: Final = 0x0112

Kind = Callable[[random.Random], bytes]


def drawn(rng: random.Random, mode: str = "RGB", size: tuple[int, int] | None = None) -> Image.Image:
    """A few ellipses on a plain ground, in `mode`."""
    width, height = size or (rng.randint(8, MAX_SIDE), rng.randint(8, MAX_SIDE))
    picture = Image.new("RGBA", (width, height), _colour(rng))
    pen = ImageDraw.Draw(picture)
    for _ in range(5):
        x, y = rng.randrange(width), rng.randrange(height)
        pen.ellipse(
            (x, y, x + rng.randrange(1, width + 1), y + rng.randrange(1, height + 1)), fill=_colour(rng)
        )
    return picture if mode == "RGBA" else picture.convert(mode)


def _colour(rng: random.Random) -> tuple[int, int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256), rng.choice((0, 128, 255))


def saved(picture: Image.Image, format_: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, format_, **options)
    return out.getvalue()


def _pillow(format_: str, mode: str = "RGB", size: tuple[int, int] | None = None, **options: Any) -> Kind:
    return lambda rng: saved(drawn(rng, mode, size), format_, **options)


def _raw(
    colour: int, depth: int, *, interlaced: bool = False, extra: tuple[tuple[bytes, bytes], ...] = ()
) -> Kind:
    def make(rng: random.Random) -> bytes:
        rows = png.gradient(rng, rng.randint(1, 70), rng.randint(1, 70), colour, depth)
        chunks = extra
        if colour == png.PALETTE:
            chunks = ((b"PLTE", rng.randbytes(3 * 2**depth)), *extra)
        return png.written(rows, colour, depth, interlaced=interlaced, extra=chunks)

    return make


def _turned(format_: str, orientation: int) -> Kind:
    def make(rng: random.Random) -> bytes:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        return saved(drawn(rng), format_, exif=exif)

    return make


def _animated(format_: str) -> Kind:
    def make(rng: random.Random) -> bytes:
        size = rng.randint(8, MAX_SIDE), rng.randint(8, MAX_SIDE)
        frames = [drawn(rng, "RGBA", size) for _ in range(rng.randint(2, 4))]
        return saved(frames[0], format_, save_all=True, append_images=frames[1:], duration=50)

    return make


def _profile() -> bytes:
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Bytes 24 to 35 tell when it was made: always the same, as all else here.
    return made[:24] + bytes(12) + made[36:]


KINDS: Final[dict[str, Kind]] = {
    "png rgb": _pillow("PNG"),
    "png rgba": _pillow("PNG", "RGBA"),
    "png grey": _pillow("PNG", "L"),
    "png grey alpha": _pillow("PNG", "LA"),
    "png palette": _pillow("PNG", "P"),
    "png one bit": _raw(png.GREY, 1),
    "png grey 2 bits": _raw(png.GREY, 2),
    "png grey 4 bits": _raw(png.GREY, 4),
    "png grey 16 bits": _raw(png.GREY, 16),
    "png grey alpha 16 bits": _raw(png.GREY_ALPHA, 16),
    "png rgb 16 bits": _raw(png.RGB, 16),
    "png rgba 16 bits": _raw(png.RGBA, 16),
    "png palette 1 bit": _raw(png.PALETTE, 1),
    "png palette 4 bits": _raw(png.PALETTE, 4),
    "png palette transparent": _raw(png.PALETTE, 8, extra=((b"tRNS", bytes(range(200))),)),
    "png grey transparent": _raw(png.GREY, 8, extra=((b"tRNS", b"\0\x10"),)),
    "png grey 4 bits transparent": _raw(png.GREY, 4, extra=((b"tRNS", b"\0\x03"),)),
    "png rgb transparent": _raw(png.RGB, 8, extra=((b"tRNS", b"\0\x10\0\x10\0\x10"),)),
    "png rgb 16 bits transparent": _raw(png.RGB, 16, extra=((b"tRNS", b"\x10\0\x10\0\x10\0"),)),
    "png rgb interlaced": _raw(png.RGB, 8, interlaced=True),
    "png grey 2 bits interlaced": _raw(png.GREY, 2, interlaced=True),
    "png rgba 16 bits interlaced": _raw(png.RGBA, 16, interlaced=True),
    "png gamma": _raw(png.RGB, 8, extra=((b"gAMA", (45_455).to_bytes(4, "big")),)),
    "png profile": lambda rng: saved(drawn(rng), "PNG", icc_profile=_profile()),
    "png orientation 6": _turned("PNG", 6),
    "png animated": _animated("PNG"),
    "png one pixel": _pillow("PNG", "RGB", (1, 1)),
    "png very wide": _pillow("PNG", "RGB", (1500, 2)),
    "png large": _pillow("PNG", "RGB", (LARGE, LARGE)),
    "png large rgba": _pillow("PNG", "RGBA", (LARGE, LARGE // 2)),
    "jpeg": _pillow("JPEG"),
    "jpeg grey": _pillow("JPEG", "L"),
    "jpeg cmyk": _pillow("JPEG", "CMYK"),
    "jpeg progressive": _pillow("JPEG", progressive=True),
    "jpeg 4:4:4 of quality 100": _pillow("JPEG", subsampling=0, quality=100),
    "jpeg of quality 1": _pillow("JPEG", quality=1),
    "jpeg profile": lambda rng: saved(drawn(rng), "JPEG", icc_profile=_profile()),
    "jpeg large": _pillow("JPEG", "RGB", (LARGE, LARGE)),
    "jpeg one pixel": _pillow("JPEG", "RGB", (1, 1)),
    **{f"jpeg orientation {number}": _turned("JPEG", number) for number in range(1, 9)},
    "webp": _pillow("WEBP"),
    "webp lossless": _pillow("WEBP", lossless=True),
    "webp alpha": _pillow("WEBP", "RGBA"),
    "webp animated": _animated("WEBP"),
    "webp orientation 8": _turned("WEBP", 8),
    "webp very tall": _pillow("WEBP", "RGB", (2, 1500)),
}


def picture(kind: str, rng: random.Random) -> bytes:
    """A file of that kind."""
    return KINDS[kind](rng)
