"""The port of the outbox of webhooks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from contracts.webhooks import Attempt, Call, Delivery, DeliveryStatus, Duty, Secret


class WebhookStore(Protocol):
    """The outbox of webhooks.

    The transition that ends a job adds its delivery here in the same step, so no delivery is lost or added
    twice. Each delivery is due at a time. `take` and `begin` move that time on. If their caller dies, the
    delivery becomes due again by itself.
    """

    @property
    def shards(self) -> Sequence[str]:
        """One digit per shard of the store, as `JobStore.shards`."""
        ...

    async def take(self, shard: str, limit: int, lease_s: float) -> Sequence[Call]:
        """Up to `limit` calls of the shard that are due now, oldest first.

        They are not due again for `lease_s` seconds.
        """
        ...

    async def begin(self, call: Call, lease_s: float) -> Duty | None:
        """Grant the attempt for `lease_s` seconds.

        None: the attempt was already made, another process holds it, the delivery has ended, or its record is gone.
        """
        ...

    async def settle(
        self, call: Call, attempt: Attempt, status: DeliveryStatus, next_in_s: float | None
    ) -> bool:
        """Log the attempt. Returns false if a later attempt has fenced it off.

        With `pending` the delivery is due again in `next_in_s` seconds. Any other status ends the delivery.
        """
        ...

    async def defer(self, call: Call, seconds: float) -> None:
        """Return a begun attempt, uncounted. The delivery is due again in `seconds`."""
        ...

    async def get(self, tenant: str, job_id: str) -> Delivery:
        """The delivery log of a job. Raises the same errors as `JobStore.get`."""
        ...

    async def due(self) -> int:
        """How many deliveries are due now and not taken."""
        ...

    def wakes(self) -> AsyncIterator[str]:
        """Shards in which a job with a webhook has just ended.

        Ends with its connection, and may miss some.
        """
        ...

    async def disable(self, tenant: str, url: str) -> None:
        """Stop deliveries to a receiver that is gone: those of the tenant that begin within three days
        lapse."""
        ...

    async def disabled(self, tenant: str, url: str) -> bool:
        """Whether `disable` stopped deliveries to the tenant's receiver."""
        ...

    async def secrets(self, tenant: str) -> Sequence[Secret]:
        """The tenant's valid secrets, the current one first. The first call creates one."""
        ...

    async def rotate(self, tenant: str, overlap_s: float) -> Sequence[Secret]:
        """Create a new secret.

        The previous one stays valid for `overlap_s` seconds; older ones end at once.
        """
        ...
