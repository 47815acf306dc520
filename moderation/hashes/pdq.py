"""PDQ hashes of pictures: 256 bits that stay alike when a picture is scaled, recompressed or tinted.

Facebook 2019, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm". The reference runs a
box filter over the rows and the columns of the brightness, twice, takes 64 x 64 points of it, and compares its
16 x 16 lowest frequencies with their median. All of it but the last step is linear, and works on rows and
columns apart. So here it is two products of matrices.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

SIDE: Final = 64
"""Points that are taken of each row and of each column."""
FREQUENCIES: Final = 16
LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
_PASSES: Final = 2
_QUALITY_DIVISOR: Final = 90
_SIZES: Final = 16
"""Sides of pictures whose matrices are kept."""

Rgb = NDArray[np.uint8]
"""(height, width, 3)."""
Floats = NDArray[np.float32]


def hash_of(rgb: Rgb) -> tuple[NDArray[np.uint8], int]:
    """The PDQ hash of a picture, (32,), in the order in which it is written in hexadecimal, and its quality, 0 to 100."""
    height, width = rgb.shape[:2]
    points = _points(height) @ (rgb @ LUMA) @ _points(width).T
    return _bits(points), _quality(points)


def hashes_of(rgb: Rgb) -> tuple[NDArray[np.uint8], int]:
    """The hashes (8, 32) of a picture as it is, mirrored, and turned by right angles; and its quality.

    They are those of the turned pixels: the points are taken from each side.
    """
    height, width = rgb.shape[:2]
    rows, columns = _both_ways(height), _both_ways(width)
    points = (rows @ (rgb @ LUMA) @ columns.T).reshape(2, SIDE, 2, SIDE)
    four = [points[down, :, right] for down in (0, 1) for right in (0, 1)]
    return np.stack([_bits(each) for one in four for each in (one, one.T)]), _quality(four[0])


@lru_cache(_SIZES)
def _points(length: int) -> Floats:
    """What makes the 64 points of a row of `length`: (64, length)."""
    # As the reference counts: the window of a box reaches one farther forward than back, or as far.
    window = (length + 2 * SIDE - 1) // (2 * SIDE) if length != SIDE else 1
    at = np.arange(length)
    ahead = (window + 2) // 2 - 1
    first, last = np.maximum(at + ahead - window + 1, 0), np.minimum(at + ahead, length - 1)
    taken = (((np.arange(SIDE) + 0.5) * length) / SIDE).astype(int)
    made = np.zeros((SIDE, length))
    made[np.arange(SIDE), taken] = 1.0
    sizes = last - first + 1
    for _ in range(_PASSES):
        # The rows of a box, (length, length), are means of runs: products with it are differences of sums.
        spread = np.zeros((length + 1, SIDE))
        np.add.at(spread, first, (made / sizes).T)
        np.add.at(spread, last + 1, (-made / sizes).T)
        made = np.cumsum(spread, 0)[:length].T
    return made.astype(np.float32)


@lru_cache(_SIZES)
def _both_ways(length: int) -> Floats:
    """The points from the start, and from the end: (128, length)."""
    forward = _points(length)
    return np.concatenate([forward, forward[:, ::-1]])


@lru_cache(1)
def _cosines() -> Floats:
    """The lowest frequencies of 64 points, without the constant: (16, 64)."""
    frequency = np.arange(1, FREQUENCIES + 1)[:, None]
    cosines = np.sqrt(2 / SIDE) * np.cos(np.pi / 2 / SIDE * frequency * (2 * np.arange(SIDE) + 1))
    return np.asarray(cosines, np.float32)


def _bits(points: Floats) -> NDArray[np.uint8]:
    values = (_cosines() @ points @ _cosines().T).ravel()
    median = np.partition(values, len(values) // 2 - 1)[len(values) // 2 - 1]
    # The first frequency is the last bit.
    return np.packbits((values > median)[::-1])


def _quality(points: Floats) -> int:
    """How much neighbouring points differ."""
    total = 0
    for axis in (0, 1):
        total += int(np.abs(np.trunc(np.diff(points, axis=axis) * (100 / 255))).sum())
    return min(100, total // _QUALITY_DIVISOR)
