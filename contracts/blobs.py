"""What the blob store answers."""

from __future__ import annotations

from enum import StrEnum


class Deletion(StrEnum):
    """The outcome of a request to delete an image."""

    DELETED = "deleted"
    ABSENT = "absent"
    YOUNG = "young"
    """The image was stored again meanwhile, and stays."""
