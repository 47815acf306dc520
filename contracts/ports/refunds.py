"""The port of refunds: what the end of a blocked job owes to the keys of the job and of those that joined it."""

from __future__ import annotations

from typing import Protocol


class Refunds(Protocol):
    """Refunds that are owed. The transition that ends a blocked job records them in the same step."""

    async def pay(self, limit: int) -> int:
        """Give back what is owed, up to `limit` jobs of each shard, each once. Any process may call it at any time.

        Answers for how many jobs. Raises `StoreUnavailable`: the rest stays owed.
        """
        ...
