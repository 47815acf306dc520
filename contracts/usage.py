"""What each tenant has asked for, by day: for the operator who wants to know who loads the platform. Not for bills."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

MEASURES: Final = ("jobs", "hits", "joined", "images", "steps", "refused")
"""Jobs accepted; those of them answered from the cache; those that joined another; their images; denoising steps of all images of
those that were computed; jobs refused."""
KEEP_DAYS: Final = 35

Counts = Mapping[tuple[str, str], int]
"""By tenant and measure."""


class UsageStore(Protocol):
    """Counts by day of UTC, kept for `KEEP_DAYS`. Raises `StoreUnavailable`."""

    async def add(self, day: str, counts: Counts) -> None:
        """Add to the counts of `day`, `2026-11-30`."""
        ...

    async def of(self, day: str) -> Counts:
        """The counts of `day`; empty where nothing is known of it."""
        ...
