"""Views of known images: what people make of a picture, embedded and hashed beforehand.

A crop leaves nothing of a PDQ hash, a flat picture's hash says little, and pictures of different things may have
embeddings that are nearly alike. So both must agree: a picture matches a view if its embedding is near the
view's, and its hash is not far from the view's either, whatever the quality of the two.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from moderation.hashes.multi_index import Hashes
from moderation.hashes.pdq import Rgb

CROPS: Final = (0.05, 0.1, 0.15)
"""Shares of the width and the height that are cut off, half of it at each edge."""
LIGHTS: Final = (0.8, 1.25)
DISTANCE: Final = 60
"""Bits in which the hash of a picture may differ from that of the view that its embedding is near to, of 256. Hashes
of different things differ in 128 of them, more or less by 8."""
AT_A_TIME: Final = 65_536
"""Vectors that are compared together."""


def views_of(rgb: Rgb) -> list[Rgb]:
    """The picture (height, width, 3) itself, mirrored, cropped, darker and brighter."""
    views = [rgb, np.ascontiguousarray(rgb[:, ::-1])]
    height, width = rgb.shape[:2]
    for share in CROPS:
        y, x = round(height * share / 2), round(width * share / 2)
        views.append(np.ascontiguousarray(rgb[y : height - y, x : width - x]))
    views.extend((rgb * np.float32(light)).clip(0, 255).round().astype(np.uint8) for light in LIGHTS)
    return views


class KnownViews:
    """Views in arrays that may be mapped from a file: vectors (N, D), float16 of length 1, and hashes (N, 4)."""

    def __init__(self, vectors: NDArray[np.float16], hashes: Hashes) -> None:
        if vectors.ndim != 2 or len(vectors) != len(hashes):
            raise ValueError("views have not one vector and one hash each")
        self._vectors = vectors
        self._hashes = hashes

    def nearest(self, raw: bytes, hashes: Hashes, similarity: float) -> float | None:
        """The largest cosine of the vector `raw`, as bytes of float16, and a view that matches. None: no view matches.

        `hashes` (Q, 4) are those of the picture, mirrored and turned too. Raises `ValueError` for a vector of
        other dimensions.
        """
        vector = np.frombuffer(raw, "<f2").astype(np.float32)
        if len(vector) != self._vectors.shape[1]:
            raise ValueError(
                f"an embedding has {len(vector)} dimensions, and the list's have {self._vectors.shape[1]}"
            )
        best = None
        for at in range(0, len(self._vectors), AT_A_TIME):
            cosines = self._vectors[at : at + AT_A_TIME].astype(np.float32) @ vector
            near = np.flatnonzero(cosines >= similarity)
            if not len(near):
                continue
            apart = (
                np.bitwise_count(self._hashes[at + near][:, None] ^ hashes[None])
                .sum(2, dtype=np.uint16)
                .min(1)
            )
            if len(agreed := cosines[near[apart <= DISTANCE]]):
                best = max(best or -1.0, float(agreed.max()))
        return best
