"""The port of the idempotency keys."""

from __future__ import annotations

from typing import Protocol

from contracts.tenancy import Reservation


class IdempotencyStore(Protocol):
    """Idempotency keys of tenants, each kept for a day. Raises `StoreUnavailable`."""

    async def find(self, tenant: str, key: str) -> Reservation | None:
        """The reservation of the tenant's key; None: there is none."""
        ...

    async def reserve(self, tenant: str, key: str, reservation: Reservation) -> Reservation:
        """Reserve the key, unless it is reserved already. Returns the reservation that holds."""
        ...

    async def complete(self, tenant: str, key: str, reservation: Reservation) -> None:
        """Note that the reserved job is accepted."""
        ...
