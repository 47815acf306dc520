"""`Idempotency-Key`: one job for a key and a body, however often and wherever they come.

No copy waits for another, and none can block the key by dying: the first one reserves not a place but the job itself, with
its id, and every copy records that very job. Recording is idempotent by id (docs/adr/0013-idempotency-by-job-id.md).
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
from contracts.tenancy import IdempotencyStore, Reservation
from store.stores import Stores
from telemetry import metrics

T = TypeVar("T")

REPLAYED: Final = "Idempotency-Replayed"
"""A header of answers to a request that had been answered before."""
MAX_KEY_CHARS: Final = 255


@dataclass(frozen=True, slots=True)
class Slot:
    """A tenant's key, and the body that came with it."""

    tenant: str
    key: str
    fingerprint: str

    async def replay(self, caller: Principal, stores: Stores) -> Job | None:
        """The job of an earlier request, if that was accepted. Raises `IdempotencyKeyReuse`, and as `JobStore.get`."""
        known = await stores.idempotency.find(self.tenant, self.key)
        if known is None:
            return None
        self._check(known)
        return await self._replayed(caller, stores, known) if known.done else None

    async def reserve(self, caller: Principal, stores: Stores, new: NewJob) -> NewJob | Job:
        """The job to record: `new`, or that of a copy which was quicker; or its job, where that is accepted already. Raises
        `IdempotencyKeyReuse`."""
        mine = Reservation(fingerprint=self.fingerprint, new=new)
        reserved = await stores.idempotency.reserve(self.tenant, self.key, mine)
        self._check(reserved)
        return reserved.new or await self._replayed(caller, stores, reserved)

    async def _replayed(self, caller: Principal, stores: Stores, known: Reservation) -> Job:
        mark_replayed(caller)
        return await stores.jobs.get(self.tenant, known.id)

    async def complete(self, store: IdempotencyStore, new: NewJob) -> None:
        """`new` is accepted."""
        try:
            done = Reservation(fingerprint=self.fingerprint, new=new)
            await store.complete(self.tenant, self.key, done)
        except StoreUnavailable:
            # The next copy records the same job once more, and finds it.
            metrics.REPAIRED.labels("idempotency").inc()

    def _check(self, known: Reservation) -> None:
        if known.fingerprint != self.fingerprint:
            raise IdempotencyKeyReuse(
                "This Idempotency-Key came before with another body.", param="Idempotency-Key"
            )


class Copies(Generic[T]):
    """The requests with an `Idempotency-Key` that are under way in this process: copies share one of them."""

    def __init__(self) -> None:
        self._under_way: dict[Slot, tuple[asyncio.Task[T], Audience]] = {}

    async def shared(
        self,
        slot: Slot,
        caller: Principal,
        gone: asyncio.Future[None] | None,
        start: Callable[[asyncio.Future[None]], asyncio.Task[T]],
    ) -> T:
        """What comes of the request under way, or of the one that `start` begins; it is handed what is done once all its clients, each
        of which is `gone` by itself, have left."""
        task, audience = self._under_way.get(slot, (None, Audience()))
        if audience.gone.done():
            # All have left it, just now: it comes to nothing.
            task, audience = None, Audience()
        audience.join(gone)
        if task is not None:
            accepted = await asyncio.shield(task)
            mark_replayed(caller)
            return accepted
        task = start(audience.gone)
        self._under_way[slot] = task, audience
        for ended in (task, audience.gone):
            ended.add_done_callback(lambda _: self._forget(slot, task))
        return await asyncio.shield(task)

    def _forget(self, slot: Slot, task: asyncio.Task[T]) -> None:
        if slot in self._under_way and self._under_way[slot][0] is task:
            del self._under_way[slot]


def slot(tenant: str, key: str | None, body: JobRequest) -> Slot | None:
    """The slot of a request, if it names a key. Equal bodies are equal JSON values: white space and order do not count."""
    if key is None:
        return None
    canonical = json.dumps(body.model_dump(exclude_none=True), sort_keys=True, separators=(",", ":"))
    return Slot(tenant, key, hashlib.sha256(canonical.encode("ascii")).hexdigest())


def mark_replayed(caller: Principal) -> None:
    caller.headers[REPLAYED] = "true"
