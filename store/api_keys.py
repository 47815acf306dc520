"""API keys in Redis: one hash of records, one of revocations, so that each change is a single command.

The hash tag keeps both on one node of a cluster. A key itself is never here, only its SHA-256.
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
    return KeyNotFound("There is no API key of that id.")


class RedisApiKeyStore:
    """The `KeyStore` on a Redis server."""

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def create(self, key: ApiKey) -> bool:
        async with store_errors("key store", self._timeout_s):
            return bool(await self._client.hsetnx(RECORDS, key.id, key.model_dump_json()))

    async def find(self, key_id: str) -> ApiKey | None:
        async with self._pipeline() as pipeline:
            pipeline.hget(RECORDS, key_id)
            pipeline.hget(REVOKED, key_id)
            record, revoked_at = await pipeline.execute()
        return None if record is None else read("key", key_id, partial(_key, record, revoked_at))

    async def list(self) -> Sequence[ApiKey]:
        async with self._pipeline() as pipeline:
            pipeline.hgetall(RECORDS)
            pipeline.hgetall(REVOKED)
            records, revoked = await pipeline.execute()
        keys = read_all(
            "key", ((key_id, partial(_key, text, revoked.get(key_id))) for key_id, text in records.items())
        )
        return sorted(keys, key=lambda key: (key.created_at, key.id), reverse=True)

    async def revoke(self, key_id: str, now: float) -> ApiKey:
        if await self.find(key_id) is None:
            raise unknown()
        async with store_errors("key store", self._timeout_s):
            await self._client.hsetnx(REVOKED, key_id, f"{now:.6f}")
        key = await self.find(key_id)
        if key is None:
            # Erased with its tenant meanwhile: nothing of it may stay.
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
        # What this version would not know to enforce.
        raise ValueError(f"needs schema {key.min_schema}")
    return key if revoked_at is None else key.model_copy(update={"revoked_at": float(revoked_at)})
