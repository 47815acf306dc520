"""How good a search by vectors is: pure arithmetic on unit vectors."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from PIL import Image

SAME_DB: Final = 30.0
"""Two pictures at this PSNR or above are one picture to a searcher."""
JPEG_QUALITY: Final = 50
KEPT: Final = 0.9
"""The share of each side that is left of a cropped picture."""
_BLOCK: Final = 256


def nearest(queries: Any, vectors: Any, count: int) -> Any:
    """Rows of the `count` nearest of `vectors` (N, D) to each of `queries` (Q, D), nearest first: int (Q, count).

    All are unit vectors. Ties go to the lower row.
    """
    found = []
    for start in range(0, len(queries), _BLOCK):
        likeness = queries[start : start + _BLOCK] @ vectors.T
        found.append(np.argsort(-likeness, axis=1, kind="stable")[:, :count])
    return np.concatenate(found)


def precision(found: Any, right: Any) -> Any:
    """The share of right pictures among those found for each query: float (Q,).

    `found` holds rows (Q, K). `right` (Q, N) says which picture is right for which query. A query with fewer than K right
    pictures is judged by as many as there are.
    """
    hits = np.take_along_axis(right, found, axis=1)
    wanted = np.minimum(right.sum(1), found.shape[1])
    seen = np.arange(found.shape[1])[None] < wanted[:, None]
    return (hits & seen).sum(1) / np.maximum(wanted, 1)


def psnr_db(one: Any, other: Any) -> Any:
    """The peak signal-to-noise ratio of pairs of pictures, uint8 (..., h, w, 3): float (...), infinite for equal ones."""
    error = ((one.astype(np.float32) - other.astype(np.float32)) ** 2).mean((-3, -2, -1))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)


def finds_itself(found: Any, rows: Any, pictures: Any) -> Any:
    """Whether the first picture found is the one looked for, or one at `SAME_DB` or more to it: bool (Q,).

    `found` holds the first row for each query (Q,), `rows` the row looked for (Q,), `pictures` all pictures.
    """
    return (found == rows) | (psnr_db(pictures[found], pictures[rows]) >= SAME_DB)


def as_jpeg(picture: Any) -> Any:
    """A picture, uint8 (h, w, 3), as JPEG keeps it at `JPEG_QUALITY`."""
    with io.BytesIO() as file:
        Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
        return np.asarray(Image.open(file))


def halved(picture: Any) -> Any:
    """A picture at half its size."""
    image = Image.fromarray(picture)
    return np.asarray(image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC))


def cropped(picture: Any) -> Any:
    """A picture without a tenth of each side: its middle."""
    height, width = picture.shape[:2]
    high, wide = round(height * KEPT), round(width * KEPT)
    top, left = (height - high) // 2, (width - wide) // 2
    return picture[top : top + high, left : left + wide]


def altered(picture: Any) -> Any:
    """A picture cropped, halved and encoded, one after the other."""
    return as_jpeg(halved(cropped(picture)))


WAYS: Final[dict[str, Callable[[Any], Any]]] = {
    "jpeg": as_jpeg,
    "half": halved,
    "crop": cropped,
    "all": altered,
}
