"""Memory of the job store: what is used, what is allowed, and how much of it each tenant's records take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Lapses = Mapping[int, int]
"""Bytes by expiry time, in whole Unix seconds."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one server. `limit_bytes` is 0 where it has no limit."""

    used_bytes: int
    limit_bytes: int

    @property
    def share(self) -> float:
        """Used memory as a share of the limit; 0.0 without a limit."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 0.0
