"""The port of the outbox of second looks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from contracts.reviews import SecondLook
from contracts.second_look import LookCall, LookDuty


class LookOutbox(Protocol):
    """The outbox of second looks.

    The transition that ends a job records what is owed together with the review, so no look is lost or
    recorded twice. Each is due at a time. `take` and `begin` move that time on. If their caller dies, the
    look becomes due again by itself. Every coroutine raises `contracts.errors.StoreUnavailable`.
    """

    @property
    def shards(self) -> Sequence[str]:
        """One digit per shard of the store, as `JobStore.shards`."""
        ...

    async def take(self, shard: str, limit: int, lease_s: float) -> Sequence[LookCall]:
        """Up to `limit` looks of the shard that are due now, oldest first.

        They are not due again for `lease_s` seconds.
        """
        ...

    async def begin(self, call: LookCall, lease_s: float) -> LookDuty | None:
        """Grant the attempt for `lease_s` seconds.

        None: the attempt was already made, another process holds it, the duty has ended, or its review is
        gone.
        """
        ...

    async def note(self, review_id: str, look: SecondLook) -> SecondLook | None:
        """Write what came of the look into the review, unless it has an answer of the model already.

        Answers the one that the review has now; None: the review is gone.
        """
        ...

    async def settle(self, call: LookCall, next_in_s: float | None) -> bool:
        """The attempt is over. Answers false if a later attempt has fenced it off.

        The look is due again in `next_in_s` seconds; None: the duty ends.
        """
        ...

    async def due(self) -> int:
        """How many looks are due now and not taken."""
        ...

    def wakes(self) -> AsyncIterator[str]:
        """Shards in which a look has just become due.

        Ends with its connection, and may miss some.
        """
        ...

    async def spend(self, limit: int) -> bool:
        """Whether one more call may be made in this hour of UTC, of `limit` by all processes together."""
        ...
