"""The port of the memory that tenants' records take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from contracts.memory_use import Lapses, Memory


class MemoryUseStore(Protocol):
    """Counts the memory of tenants' records. Raises `StoreUnavailable`."""

    async def memory(self) -> Sequence[Memory]:
        """The memory of every server that holds records."""
        ...

    async def add(self, more: Mapping[str, Lapses]) -> Mapping[str, Lapses]:
        """Add bytes per tenant, and return the totals of those tenants.

        Expired entries may still be included.
        """
        ...
