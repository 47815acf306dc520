"""Embeddings of known images, compared one by one."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

AT_A_TIME: Final = 65_536
"""Vectors that are compared together: their float32 copies stay in a core's cache."""


class KnownEmbeddings:
    """Vectors (N, D), float16 of length 1, of one model."""

    def __init__(self, vectors: NDArray[np.float16], clip: str) -> None:
        self._vectors = vectors
        self.clip = clip

    def __len__(self) -> int:
        return len(self._vectors)

    def nearest(self, raw: bytes) -> float:
        """The cosine of the vector `raw`, as bytes of float16, and the nearest one. -1 if there is none.

        Raises `ValueError` for a vector of other dimensions.
        """
        vector = np.frombuffer(raw, "<f2").astype(np.float32)
        if len(vector) != self._vectors.shape[1]:
            raise ValueError(
                f"an embedding has {len(vector)} dimensions, and the list's have {self._vectors.shape[1]}"
            )
        best = -1.0
        for at in range(0, len(self._vectors), AT_A_TIME):
            best = max(best, float((self._vectors[at : at + AT_A_TIME].astype(np.float32) @ vector).max()))
        return best
