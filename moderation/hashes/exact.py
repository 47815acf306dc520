"""Digests of whole files: sorted, and found by bisection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from moderation.hashes.list_file import Array, unique_rows

DigestKind = Literal["md5", "sha256"]
DIGEST_BYTES: Final[dict[DigestKind, int]] = {"md5": 16, "sha256": 32}
_HEAD_BYTES: Final = 8


class DigestSet:
    """A set of digests of one kind, in arrays that may be mapped from a file.

    `heads` (N,), uint64, holds the first eight bytes of each digest as a big-endian number, in ascending
    order. `tails` (N, bytes - 8), uint8, holds the rest.
    """

    def __init__(self, heads: NDArray[np.uint64], tails: NDArray[np.uint8]) -> None:
        if len(heads) != len(tails):
            raise ValueError("heads and tails of digests differ in number")
        self._heads = heads
        self._tails = tails

    def __len__(self) -> int:
        return len(self._heads)

    def __contains__(self, digest: bytes) -> bool:
        """Whether the set has the digest."""
        head = np.uint64(int.from_bytes(digest[:_HEAD_BYTES], "big"))
        start = int(np.searchsorted(self._heads, head, "left"))
        end = int(np.searchsorted(self._heads, head, "right"))
        return any(self._tails[at].tobytes() == digest[_HEAD_BYTES:] for at in range(start, end))


def arrays_of(kind: DigestKind, digests: bytes) -> dict[str, Array]:
    """The arrays of a set of digests, which `digests` holds one after the other. Doubles are dropped."""
    words = unique_rows(np.frombuffer(digests, ">u8").reshape(-1, DIGEST_BYTES[kind] // 8))
    return {f"{kind}.heads": words[:, 0].astype("<u8"), f"{kind}.tails": words[:, 1:].copy().view(np.uint8)}


def digests_in(kind: DigestKind, arrays: Mapping[str, Array]) -> DigestSet:
    """The set of digests of a list; empty where the list has none. Raises `KeyError` for half a set."""
    if f"{kind}.heads" not in arrays:
        return DigestSet(np.empty(0, np.uint64), np.empty((0, DIGEST_BYTES[kind] - _HEAD_BYTES), np.uint8))
    return DigestSet(arrays[f"{kind}.heads"], arrays[f"{kind}.tails"])
