"""The port of the pictures' store."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Deletion(StrEnum):
    """What became of a picture that was to be deleted."""

    DELETED = "deleted"
    ABSENT = "absent"
    YOUNG = "young"
    """It has been put since, and stays."""


class BlobStore(Protocol):
    """Content-addressed, immutable pictures."""

    async def put(self, data: bytes, extension: str, *, is_input: bool = False) -> str:
        """Store `data` whole or not at all; answers its name, `<sha256>.<extension>`, behind `inputs/` for a picture to start
        from. Idempotent."""
        ...

    async def get(self, name: str) -> bytes:
        """The bytes. Raises `ImageNotFound`, also for anything that is not a well-formed name."""
        ...

    async def exists(self, name: str) -> bool: ...

    async def space(self) -> tuple[int, int] | None:
        """Free and all bytes of the disk that the pictures lie on; None where that is none of ours, or cannot be told."""
        ...

    async def delete(self, name: str, put_before: float) -> Deletion:
        """Delete the picture, unless somebody has put it at or after `put_before` (Unix seconds)."""
        ...

    async def prune(self, older_than_s: float, max_bytes: int | None) -> int:
        """Delete what was put more than `older_than_s` seconds ago, then the oldest until at most `max_bytes` are left.
        Answers how many went; bounded work, so there may be more to do."""
        ...
