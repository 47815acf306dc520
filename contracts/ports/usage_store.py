"""The port of the usage by tenant and day."""

from __future__ import annotations

from typing import Protocol

from contracts.usage import Counts


class UsageStore(Protocol):
    """Counts per UTC day, kept for `KEEP_DAYS`. Raises `StoreUnavailable`."""

    async def add(self, day: str, counts: Counts) -> None:
        """Add to the counts of `day`, for example `2026-11-30`."""
        ...

    async def of(self, day: str) -> Counts:
        """The counts of `day`; empty for an unknown day."""
        ...
