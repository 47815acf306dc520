"""Geometry: the part of an image that covers a target size, and how far it may be reduced before
the final resize. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

REDUCING_GAP: Final = 2
"""Averaging over whole blocks stops at this many times the final size. Lanczos does the rest; the
result is then practically the same as without averaging."""

Size = tuple[int, int]
"""A width and a height in pixels."""


@dataclass(frozen=True, slots=True)
class Cover:
    """The centred part of an image that has the aspect ratio of a target size.

    Coordinates are in pixels of the image.
    """

    left: float
    top: float
    right: float
    bottom: float
    factor: int
    """The side of the blocks that may be averaged first, in pixels. At least `REDUCING_GAP` times
    the target size is left."""

    @property
    def outer(self) -> tuple[int, int, int, int]:
        """The box of whole pixels that the part touches: left, top, right, bottom."""
        return math.floor(self.left), math.floor(self.top), math.ceil(self.right), math.ceil(self.bottom)

    @property
    def reduced(self) -> Size:
        """The size of `outer` after averaging."""
        left, top, right, bottom = self.outer
        return -(-(right - left) // self.factor), -(-(bottom - top) // self.factor)

    @property
    def inner(self) -> tuple[float, float, float, float]:
        """The part in the coordinates of the averaged `outer`: left, top, right, bottom."""
        left, top, _, _ = self.outer
        return (
            (self.left - left) / self.factor,
            (self.top - top) / self.factor,
            (self.right - left) / self.factor,
            (self.bottom - top) / self.factor,
        )


def cover(size: Size, target: Size) -> Cover:
    """The part of an image of `size` that covers `target`: as large as possible, cut at the centre."""
    width, height = size
    across, down = target
    # Compared as integers: equal aspect ratios are then exactly equal.
    if width * down > height * across:
        part = height * across / down, float(height)
    else:
        part = float(width), width * down / across
    left, top = (width - part[0]) / 2, (height - part[1]) / 2
    factor = int(min(part[0] / (across * REDUCING_GAP), part[1] / (down * REDUCING_GAP)))
    return Cover(left, top, left + part[0], top + part[1], max(1, factor))


def draft_scale(size: Size, target: Size) -> int:
    """The divisor (1, 2, 4 or 8) of the size at which libjpeg decodes an image of `size` that is to
    cover `target`."""
    scale = min(size[0] // target[0], size[1] // target[1])
    return next(divisor for divisor in (8, 4, 2, 1) if scale >= divisor or divisor == 1)
