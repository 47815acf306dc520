"""Picture files of every kind, made by hand where no library writes them."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).parent / "pictures"


def file_of(picture: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


def encoded(picture: Image.Image, kind: str = "PNG", **how: Any) -> str:
    return text_of(file_of(picture, kind, **how))


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decoded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "PNG"
    picture.load()
    return picture


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Too large to be smooth at once: a tile of noise, repeated."""
    tile = Image.effect_noise((256, 256), 60)
    picture = Image.new("L", (width, height))
    for left in range(0, width, 256):
        for top in range(0, height, 256):
            picture.paste(tile, (left, top))
    if mode == "RGBA":
        return Image.merge("RGBA", (picture, picture, picture, picture))
    return picture.convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], *chunks: bytes) -> bytes:
    """A PNG of those rows, unfiltered, with further chunks before the data."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + data + chunk(b"IEND", b"")


def profile(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile, version 2 (ICC.1:2001-04)."""
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(
        ">I4s4s4s4s4s", 128 + len(table) + len(body), b"test", b"\2\x10\0\0", kind, space, connection
    )
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">III", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + table + body


def common_tags() -> dict[bytes, bytes]:
    name = b"test\0"
    return {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(79),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">III", 63190, 65536, 54061),
    }


def grey_profile(gamma: float) -> bytes:
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    return profile(b"GRAY", {**common_tags(), b"kTRC": curve})


def cmyk_profile() -> bytes:
    """Four inks by a table with two points a channel (lut8Type): cyan alone is Lab 60, -20, -30, any key is black, others are white."""
    line = bytes(range(256))
    table = b""
    for point in range(16):
        cyan, key = point >> 3 & 1, point & 1
        lab = (0, 0, 0) if key else (60, -20, -30) if cyan else (100, 0, 0)
        table += bytes([round(lab[0] * 255 / 100), lab[1] + 128, lab[2] + 128])
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + line * 4 + table + line * 3
    return profile(b"CMYK", {**common_tags(), b"A2B0": lut, b"A2B1": lut}, b"Lab ")
