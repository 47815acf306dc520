"""PDQ hashes of pictures: 256 bits that stay alike when a picture is scaled, recompressed or tinted.

Facebook 2019, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm".
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pdqhash
from numpy.typing import NDArray
from PIL import Image

from moderation.hashes.multi_index import BITS

LARGEST_SIDE: Final = 512
"""Larger pictures are made smaller first: at 1,024 pixels a hash takes 35 ms, at 512 five."""
TURNED_SIDE: Final = 128
"""Mirrored and turned pictures are hashed at this size, and differ by some 6 bits from a hash in full."""

Rgb = NDArray[np.uint8]
"""(height, width, 3)."""


def hash_of(rgb: Rgb) -> tuple[NDArray[np.uint8], int]:
    """The PDQ hash of a picture, (32,), and its quality from 0 to 100."""
    return _hash(_reduced(rgb, LARGEST_SIDE))


def hashes_of(rgb: Rgb) -> tuple[NDArray[np.uint8], int]:
    """The hashes (8, 32) of a picture as it is, mirrored, and turned by right angles; and its quality.

    `pdqhash.compute_dihedral` makes them of one hash's coefficients. They are then 22 to 30 bits off those
    of the turned pixels, of the 31 that may differ. So the pixels are turned.
    """
    upright, quality = hash_of(rgb)
    small = _reduced(rgb, TURNED_SIDE)
    turned = [small[:, ::-1], *(np.rot90(each, k) for k in (1, 2, 3) for each in (small, small[:, ::-1]))]
    return np.stack([upright, *(_hash(each)[0] for each in turned)]), quality


def _hash(rgb: Rgb) -> tuple[NDArray[np.uint8], int]:
    # pdqhash reads an array by its address: one that is not contiguous is another picture.
    bits, quality = pdqhash.compute(np.ascontiguousarray(rgb))
    if len(bits) != BITS:
        raise ValueError(f"PDQ answered {len(bits)} bits")
    return np.packbits(bits.astype(np.uint8)), int(quality)


def _reduced(rgb: Rgb, side: int) -> Rgb:
    """The picture, made smaller by a whole number if its longer side is at least twice `side`."""
    factor = max(rgb.shape[:2]) // side
    if factor < 2:
        return rgb
    made: Any = np.asarray(Image.fromarray(rgb).reduce(factor))
    return made  # type: ignore[no-any-return]
