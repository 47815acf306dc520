"""PNG files of every colour type and bit depth, plain and interlaced, which Pillow cannot write. After the specification
(https://www.w3.org/TR/png-3/), sections 8 and 11. Pure."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from typing import Final

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
SAMPLES: Final = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
ADAM7: Final = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""Of each pass: first column, first row, and the steps between columns and rows."""
SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

Rows = list[list[int]]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def gradient(rng: random.Random, width: int, height: int, colour: int, depth: int) -> Rows:
    """Rows of `width` x samples values below 2^depth: a slope of its own in each sample."""
    slopes = [(rng.uniform(0, 1), rng.uniform(0, 1)) for _ in range(SAMPLES[colour])]
    top = 2**depth - 1
    return [
        [
            int(top * (a * x / max(1, width - 1) + b * y / max(1, height - 1)) / max(1e-9, a + b))
            for x in range(width)
            for a, b in slopes
        ]
        for y in range(height)
    ]


def written(
    rows: Rows,
    colour: int,
    depth: int,
    *,
    interlaced: bool = False,
    extra: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """A file of `rows`; `extra` chunks stand before the pixels."""
    samples = SAMPLES[colour]
    width, height = len(rows[0]) // samples, len(rows)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    passes = [*_passes(rows, samples)] if interlaced else [rows]
    data = b"".join(b"\0" + packed(row, depth) for part in passes for row in part)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(kind, content) for kind, content in chunks)


def _passes(rows: Rows, samples: int) -> Iterator[Rows]:
    width = len(rows[0]) // samples
    for left, top, across, down in ADAM7:
        columns = range(left, width, across)
        if columns:
            yield [
                [value for x in columns for value in row[x * samples : (x + 1) * samples]]
                for row in rows[top::down]
            ]


def packed(row: list[int], depth: int) -> bytes:
    """The values of a row, `depth` bits each, the first in the highest bits."""
    if depth >= 8:
        return b"".join(value.to_bytes(depth // 8, "big") for value in row)
    per_byte = 8 // depth
    filled = row + [0] * (-len(row) % per_byte)
    return bytes(
        sum(
            value << (8 - depth * (place + 1)) for place, value in enumerate(filled[start : start + per_byte])
        )
        for start in range(0, len(filled), per_byte)
    )
