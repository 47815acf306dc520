"""The port of the accounts of API keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from contracts.tenancy import Account, Charge, Limits


class QuotaLedger(Protocol):
    """Accounts of keys. Raises `StoreUnavailable`.

    An account holds every live job of its key, and perhaps some that have ended since. Before a refusal for
    `concurrent_jobs` or `queued_jobs`, `settle` the account by the job records.
    """

    async def admit(
        self, key_id: str, limits: Limits, charge: Charge, *, charge_rate: bool = True
    ) -> Account:
        """Charge a job to all limits of its key, or to none but the rate.

        `charge_rate` false: the request has been counted already.
        """
        ...

    async def refund(
        self, key_id: str, limits: Limits, charge: Charge, *, charged_at: float | None = None
    ) -> None:
        """Undo a charge. The rate stays charged, since it counts requests.

        `charged_at` (Unix seconds): the job was recorded then, and is refunded once, to the day of the charge,
        however often this is called. None: the job was not recorded, and may be charged again.
        """
        ...

    async def held(self, key_id: str) -> Sequence[tuple[str, float]]:
        """The jobs in the account, and how many seconds ago each was admitted."""
        ...

    async def settle(
        self, key_id: str, ended: Sequence[str], running: Sequence[str], queued: Sequence[str]
    ) -> None:
        """Remove `ended` jobs from the account, and note which of the others are `running` or `queued`."""
        ...
