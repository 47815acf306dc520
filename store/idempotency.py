"""Idempotency keys: the job that each stands for, for a day. One Redis command decides who was first."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Final

from redis.asyncio import Redis

from backends.redis_client import store_errors
from contracts.tenancy import Reservation
from store.records import read

KEPT_S: Final = 86_400
PREFIX: Final = "darkroom:idempotency:"


class RedisIdempotencyStore:
    """The `IdempotencyStore` on a Redis server."""

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def find(self, tenant: str, key: str) -> Reservation | None:
        async with store_errors("idempotency store", self._timeout_s):
            stored = await self._client.get(_name(tenant, key))
        return None if stored is None else _reservation(stored)

    async def reserve(self, tenant: str, key: str, reservation: Reservation) -> Reservation:
        name, value = _name(tenant, key), reservation.model_dump_json()
        async with store_errors("idempotency store", self._timeout_s):
            stored = await self._client.set(name, value, nx=True, get=True, ex=KEPT_S)
        return _reservation(stored) if isinstance(stored, str) else reservation

    async def complete(self, tenant: str, key: str, reservation: Reservation) -> None:
        done = reservation.settled().model_dump_json()
        async with store_errors("idempotency store", self._timeout_s):
            await self._client.set(_name(tenant, key), done, xx=True, keepttl=True)


def _reservation(stored: str | bytes) -> Reservation:
    return read("idempotency key", "", partial(Reservation.model_validate_json, stored))


def _name(tenant: str, key: str) -> str:
    # Hashed, for a client may put anything into its key. No tenant's name holds the separator.
    return PREFIX + hashlib.sha256(f"{tenant}\0{key}".encode()).hexdigest()
