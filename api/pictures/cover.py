"""Geometry: the part of a picture that covers a size, and how far it may be shrunk on the way there. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

REDUCING_GAP: Final = 2
"""Averaging over whole blocks stops at this many times the final size; the rest is Lanczos, which then cannot tell the difference."""

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class Cover:
    """The centred part of a picture that has the aspect of a target size."""

    left: float
    top: float
    right: float
    bottom: float
    factor: int
    """Blocks of so many pixels a side may be averaged first: at least `REDUCING_GAP` times the target's size is left."""

    @property
    def outer(self) -> tuple[int, int, int, int]:
        """The whole pixels that the part touches: left, top, right, bottom."""
        return math.floor(self.left), math.floor(self.top), math.ceil(self.right), math.ceil(self.bottom)

    @property
    def reduced(self) -> Size:
        """The size of `outer` after averaging."""
        left, top, right, bottom = self.outer
        return -(-(right - left) // self.factor), -(-(bottom - top) // self.factor)

    @property
    def inner(self) -> tuple[float, float, float, float]:
        """The part in coordinates of the averaged `outer`."""
        left, top, _, _ = self.outer
        return (
            (self.left - left) / self.factor,
            (self.top - top) / self.factor,
            (self.right - left) / self.factor,
            (self.bottom - top) / self.factor,
        )


def cover(size: Size, target: Size) -> Cover:
    """The part of a picture of `size` that covers `target`: as large as can be, cut at the centre."""
    width, height = size
    across, down = target
    # In whole numbers, so that equal aspects are seen to be equal.
    if width * down > height * across:
        part = height * across / down, float(height)
    else:
        part = float(width), width * down / across
    left, top = (width - part[0]) / 2, (height - part[1]) / 2
    factor = int(min(part[0] / (across * REDUCING_GAP), part[1] / (down * REDUCING_GAP)))
    return Cover(left, top, left + part[0], top + part[1], max(1, factor))


def draft_scale(size: Size, target: Size) -> int:
    """The fraction, one of 1, 2, 4, 8, at which libjpeg decodes a picture of `size` that is to cover `target`."""
    scale = min(size[0] // target[0], size[1] // target[1])
    return next(each for each in (8, 4, 2, 1) if scale >= each or each == 1)
