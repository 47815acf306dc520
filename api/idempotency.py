"""`Idempotency-Key`: one job for a key and a body, however often and in whichever process they
arrive.

The first copy of a request reserves the whole job with its id, and every copy records that same
job. No copy waits for another, and a copy that dies blocks nothing. Recording is idempotent by id
(docs/adr/0013-idempotency-by-job-id.md).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from api.job_request import JobRequest
from api.keyring import Principal
from api.long_poll import Audience
from contracts.errors import IdempotencyKeyReuse, StoreUnavailable
from contracts.jobs import Job, NewJob
from contracts.ports.idempotency_store import IdempotencyStore
from contracts.tenancy import Reservation
from store.stores import Stores
from telemetry import metrics

T = TypeVar("T")

REPLAYED: Final = "Idempotency-Replayed"
"""The header of an answer to a request that was answered before."""
MAX_KEY_CHARS: Final = 255
"""The longest `Idempotency-Key`."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An idempotency key of a tenant, and the fingerprint of the body that came with it."""

    tenant: str
    key: str
    fingerprint: str

    async def replay(self, caller: Principal, stores: Stores) -> Job | None:
        """The job of an earlier request, if it was accepted; else None.

        Raises `IdempotencyKeyReuse`, and as `JobStore.get`.
        """
        known = await stores.idempotency.find(self.tenant, self.key)
        if known is None:
            return None
        self._check(known)
        return await self._replayed(caller, stores, known) if known.done else None

    async def reserve(self, caller: Principal, stores: Stores, new: NewJob) -> NewJob | Job:
        """Reserve the key for `new`.

        Returns the job to record: `new`, or the job of an earlier copy. Returns a `Job` if that one
        is accepted already. Raises `IdempotencyKeyReuse`, and as `JobStore.get`.
        """
        mine = Reservation(fingerprint=self.fingerprint, new=new)
        reserved = await stores.idempotency.reserve(self.tenant, self.key, mine)
        self._check(reserved)
        return reserved.new or await self._replayed(caller, stores, reserved)

    async def _replayed(self, caller: Principal, stores: Stores, known: Reservation) -> Job:
        mark_replayed(caller)
        return await stores.jobs.get(self.tenant, known.id)

    async def complete(self, store: IdempotencyStore, new: NewJob) -> None:
        """Store that `new` is accepted."""
        try:
            done = Reservation(fingerprint=self.fingerprint, new=new)
            await store.complete(self.tenant, self.key, done)
        except StoreUnavailable:
            # The next copy records the same job again, and finds it.
            metrics.REPAIRED.labels("idempotency").inc()

    def _check(self, known: Reservation) -> None:
        if known.fingerprint != self.fingerprint:
            raise IdempotencyKeyReuse(
                "This Idempotency-Key came before with another body.", param="Idempotency-Key"
            )


class Copies(Generic[T]):
    """The active requests with an `Idempotency-Key` in this process. Copies of a request share one."""

    def __init__(self) -> None:
        self._active: dict[Slot, tuple[asyncio.Task[T], Audience]] = {}

    async def shared(
        self,
        slot: Slot,
        caller: Principal,
        gone: asyncio.Future[None] | None,
        start: Callable[[asyncio.Future[None]], asyncio.Task[T]],
    ) -> T:
        """The result of the active request of `slot`, or of the one that `start` begins. Raises
        what that raises.

        `gone` is done when this client leaves. `start` gets a future that is done once all clients
        of the request have left.
        """
        task, audience = self._active.get(slot, (None, Audience()))
        if audience.gone.done():
            # All its clients have just left: it ends without a result.
            task, audience = None, Audience()
        audience.join(gone)
        if task is not None:
            accepted = await asyncio.shield(task)
            mark_replayed(caller)
            return accepted
        task = start(audience.gone)
        self._active[slot] = task, audience
        for ended in (task, audience.gone):
            ended.add_done_callback(lambda _: self._forget(slot, task))
        return await asyncio.shield(task)

    def _forget(self, slot: Slot, task: asyncio.Task[T]) -> None:
        if slot in self._active and self._active[slot][0] is task:
            del self._active[slot]


def slot(tenant: str, key: str | None, body: JobRequest) -> Slot | None:
    """The slot of a request; None without a `key`.

    Bodies are compared as JSON values: white space and order do not count.
    """
    if key is None:
        return None
    canonical = json.dumps(body.model_dump(exclude_none=True), sort_keys=True, separators=(",", ":"))
    return Slot(tenant, key, hashlib.sha256(canonical.encode("ascii")).hexdigest())


def mark_replayed(caller: Principal) -> None:
    """Add the header `REPLAYED` to the answer for `caller`."""
    caller.headers[REPLAYED] = "true"
