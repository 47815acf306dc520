"""The port of the store of clicks: which hits people chose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class ClickStore(Protocol):
    """Clicks on the hits of searches. No tenant's clicks count for another."""

    async def add(self, tenant: str, query: str, image: str, holder: str, now: float) -> bool:
        """Count a click of `holder` on an image that a search for `query` found.

        The same click counts once a day. Answers whether it counted: it does not either where the bounds
        of the tenant are reached. `now` is in Unix seconds. Raises `StoreUnavailable`, `StoreFull`.
        """
        ...

    async def counts(self, tenant: str, query: str) -> Mapping[str, int]:
        """The clicks on each image, for searches with the same words. Raises `StoreUnavailable`."""
        ...
