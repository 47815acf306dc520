"""API keys in Redis: a hash of records and a hash of revocations, so that each change is a single
command.

The hash tag keeps both on one node of a cluster. Only the SHA-256 of a key is stored, never the
key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from backends.redis_client import store_errors
from contracts.errors import KeyNotFound
from contracts.tenancy import ApiKey
from store.records import read, read_all

RECORDS: Final = "darkroom:{keys}:records"
REVOKED: Final = "darkroom:{keys}:revoked"


def unknown() -> KeyNotFound:
    """The error for an id without a key."""
    return KeyNotFound("There is no API key of that id.")


class RedisApiKeyStore:
    """The `KeyStore` on a Redis server."""

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def create(self, key: ApiKey) -> bool:
        """Store a new key. Answers whether its id was free."""
        async with store_errors("key store", self._timeout_s):
            return bool(await self._client.hsetnx(RECORDS, key.id, key.model_dump_json()))

    async def find(self, key_id: str) -> ApiKey | None:
        """The key of that id, revoked or not; None: there is none. Raises `RecordUnreadable`,
        `StoreUnavailable`."""
        async with self._pipeline() as pipeline:
            pipeline.hget(RECORDS, key_id)
            pipeline.hget(REVOKED, key_id)
            record, revoked_at = await pipeline.execute()
        return None if record is None else read("key", key_id, partial(_key, record, revoked_at))

    async def list(self) -> Sequence[ApiKey]:
        """Every key that can be read, newest first."""
        async with self._pipeline() as pipeline:
            pipeline.hgetall(RECORDS)
            pipeline.hgetall(REVOKED)
            records, revoked = await pipeline.execute()
        keys = read_all(
            "key", ((key_id, partial(_key, text, revoked.get(key_id))) for key_id, text in records.items())
        )
        return sorted(keys, key=lambda key: (key.created_at, key.id), reverse=True)

    async def revoke(self, key_id: str, now: float) -> ApiKey:
        """Revoke the key at `now` (Unix seconds), unless it was revoked before. Raises
        `KeyNotFound`, `RecordUnreadable`, `StoreUnavailable`."""
        if await self.find(key_id) is None:
            raise unknown()
        async with store_errors("key store", self._timeout_s):
            await self._client.hsetnx(REVOKED, key_id, f"{now:.6f}")
        key = await self.find(key_id)
        if key is None:
            # The key was erased with its tenant meanwhile. Nothing of it may stay.
            async with store_errors("key store", self._timeout_s):
                await self._client.hdel(REVOKED, key_id)
            raise unknown()
        return key

    @asynccontextmanager
    async def _pipeline(self) -> AsyncIterator[Pipeline]:
        async with (
            store_errors("key store", self._timeout_s),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            yield pipeline


def _key(record: str, revoked_at: str | None) -> ApiKey:
    key = ApiKey.model_validate_json(record)
    if not key.readable:
        # This version could not enforce such a key.
        raise ValueError(f"needs schema {key.min_schema}")
    return key if revoked_at is None else key.model_copy(update={"revoked_at": float(revoked_at)})
