"""The port of the blob store, which holds the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from contracts.blobs import Deletion


class BlobStore(Protocol):
    """Content-addressed, immutable images. Raises `BlobStoreUnavailable` where the store is away or full."""

    async def put(self, data: bytes, extension: str, *, is_input: bool = False, is_held: bool = False) -> str:
        """Store `data`, whole or not at all, and return its name. Idempotent.

        The name is `<sha256>.<extension>`, with the prefix `inputs/` for an init image (`is_input`) and
        `held/` for an image that a policy keeps from its owner (`is_held`).
        """
        ...

    async def get(self, name: str) -> bytes:
        """The bytes of an image. Raises `ImageNotFound`, also for a malformed name."""
        ...

    async def exists(self, name: str) -> bool:
        """Whether the store has an image of this name."""
        ...

    async def space(self) -> tuple[int, int] | None:
        """Free and usable bytes of the disk that holds the images; None where there is no disk of ours."""
        ...

    async def delete(self, name: str, put_before: float) -> Deletion:
        """Delete the image, unless it was stored again at or after `put_before` (Unix seconds)."""
        ...

    async def page(self, after: str, limit: int) -> Sequence[tuple[str, float]]:
        """At most `limit` public names in order, those behind `after`, with the Unix seconds at which each was
        stored last. Empty: there are no more."""
        ...

    async def prune(self, older_than_s: float, max_bytes: int | None) -> int:
        """Delete images stored more than `older_than_s` seconds ago, then the oldest ones beyond `max_bytes`.

        Returns how many were deleted. One call does bounded work: call it again until it returns 0.
        """
        ...
