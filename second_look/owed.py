"""The outbox of second looks as a dispatcher sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from contracts.ports.look_outbox import LookOutbox
from contracts.second_look import LookCall


@dataclass(frozen=True, slots=True)
class OwedLooks:
    """The `duties.dispatch.Outbox` of second looks. Every coroutine raises `StoreUnavailable`.

    A slow model leaves messages on the queue for long. `patience_s` says after how many seconds one that has
    not begun is put there again: else copies would fill the queue.
    """

    outbox: LookOutbox
    patience_s: Callable[[], float]

    @property
    def shards(self) -> Sequence[str]:
        """The shards of the store."""
        return self.outbox.shards

    async def take(self, shard: str, limit: int, lease_s: float) -> Sequence[LookCall]:
        """Up to `limit` looks of the shard that are due. They are not due again for `lease_s` seconds at least."""
        return await self.outbox.take(shard, limit, max(lease_s, self.patience_s()))

    async def due(self) -> int:
        """How many looks are due now and not taken."""
        return await self.outbox.due()

    def wakes(self) -> AsyncIterator[str]:
        """Shards in which a look has just become due, until the connection is lost."""
        return self.outbox.wakes()
