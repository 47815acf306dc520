"""What each tenant has used, per day. It shows operators who loads the platform. Not for bills."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

MEASURES: Final = ("jobs", "hits", "joined", "images", "steps", "refused")
"""Accepted jobs; those answered from the cache; those that joined another job; images of accepted jobs;
denoising steps of all images of computed jobs; refused jobs."""
KEEP_DAYS: Final = 35

Counts = Mapping[tuple[str, str], int]
"""Counts by tenant and measure."""


class UsageStore(Protocol):
    """Counts per UTC day, kept for `KEEP_DAYS`. Raises `StoreUnavailable`."""

    async def add(self, day: str, counts: Counts) -> None:
        """Add to the counts of `day`, for example `2026-11-30`."""
        ...

    async def of(self, day: str) -> Counts:
        """The counts of `day`; empty for an unknown day."""
        ...
