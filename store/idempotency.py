"""Idempotency keys in Redis. Each stands for one job, for a day. A single Redis command decides
which request was first."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Final

from redis.asyncio import Redis

from backends.redis_client import store_errors
from contracts.tenancy import Reservation
from store.records import read

KEPT_S: Final = 86_400
"""Seconds that a key is kept."""
PREFIX: Final = "darkroom:idempotency:"


class RedisIdempotencyStore:
    """The `IdempotencyStore` on a Redis server."""

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def find(self, tenant: str, key: str) -> Reservation | None:
        """What the tenant's key stands for; None: nothing. Raises `RecordUnreadable`,
        `StoreUnavailable`."""
        async with store_errors("idempotency store", self._timeout_s):
            stored = await self._client.get(_name(tenant, key))
        return None if stored is None else _reservation(stored)

    async def reserve(self, tenant: str, key: str, reservation: Reservation) -> Reservation:
        """The reservation of the key: this one, or the one that was there before. Raises
        `RecordUnreadable`, `StoreUnavailable`."""
        name, value = _name(tenant, key), reservation.model_dump_json()
        async with store_errors("idempotency store", self._timeout_s):
            stored = await self._client.set(name, value, nx=True, get=True, ex=KEPT_S)
        return _reservation(stored) if isinstance(stored, str) else reservation

    async def complete(self, tenant: str, key: str, reservation: Reservation) -> None:
        """Mark the reserved job as accepted. Raises `StoreUnavailable`."""
        done = reservation.settled().model_dump_json()
        async with store_errors("idempotency store", self._timeout_s):
            await self._client.set(_name(tenant, key), done, xx=True, keepttl=True)


def _reservation(stored: str | bytes) -> Reservation:
    return read("idempotency key", "", partial(Reservation.model_validate_json, stored))


def _name(tenant: str, key: str) -> str:
    # Hashed, because a client may put anything into its key. No tenant's name holds the separator.
    return PREFIX + hashlib.sha256(f"{tenant}\0{key}".encode()).hexdigest()
