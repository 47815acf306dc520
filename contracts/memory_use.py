"""Room in the store of records: what it holds, what it may hold, and what each tenant's part of that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Lapses = Mapping[int, int]
"""Bytes by the time, in whole Unix seconds, until which they are kept."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one server. `limit_bytes` is 0 where it has no limit."""

    used_bytes: int
    limit_bytes: int

    @property
    def share(self) -> float:
        """How full it is; 0.0 without a limit."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 0.0


class MemoryUseStore(Protocol):
    """Counts what tenants' records take. Raises `StoreUnavailable`."""

    async def memory(self) -> Sequence[Memory]:
        """Of every server that holds records."""
        ...

    async def add(self, more: Mapping[str, Lapses]) -> Mapping[str, Lapses]:
        """Count more bytes for each tenant; answers all that is counted for those, what has lapsed included or not."""
        ...
