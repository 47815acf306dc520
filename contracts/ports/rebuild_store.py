"""The port of the store that remembers how far the rebuild of a search index has come."""

from __future__ import annotations

from typing import Protocol

from contracts.search import Rebuild


class RebuildStore(Protocol):
    """Rebuilds by the name of their index. Raises `StoreUnavailable`."""

    async def get(self, index: str) -> Rebuild | None:
        """The last rebuild; None: there was none."""
        ...

    async def put(self, index: str, rebuild: Rebuild) -> None:
        """Record how far it has come."""
        ...
