"""Imported images in Redis: the name of the image by the hash of the file that was sent, and who has it.

The record itself is a `picture:<id>` as those of drawn images are (`store/pictures.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis

from contracts.pictures import PictureRecord, import_id
from contracts.ports.picture_outbox import PictureOutbox
from contracts.settings import BackendSettings
from store.key_names import ANY, Layout, shard_prefix
from store.layout import LayoutGuard
from store.pictures import record_parts
from store.scripts import Scripts

WHAT: Final = "picture store"
NAME: Final = "name"
"""The one field of `imported:<tenant>:<sha256>`."""


class RedisImportStore:
    """The `ImportStore` on one Redis server or cluster. `outbox` is the one on the same server."""

    def __init__(
        self, client: Redis, settings: BackendSettings, guard: LayoutGuard, outbox: PictureOutbox
    ) -> None:
        self._client = client
        self._keep_s = settings.blob_retention_s
        self._guard = guard
        self._outbox = outbox
        self._layout = Layout(settings.shards)
        self._scripts = Scripts(client, guard, settings.job_retention_s, settings.redis_timeout_s, WHAT)

    async def known(self, tenant: str, digests: Sequence[str]) -> Mapping[str, str]:
        """The names of the images that the tenant has imported from files of these hashes. Raises
        `StoreUnavailable`."""
        async with self._guard.store_errors(WHAT), self._client.pipeline(transaction=False) as pipeline:
            for digest in digests:
                pipeline.hget(self._imported(tenant, digest), NAME)
            names = dict(zip(digests, await pipeline.execute() if digests else [], strict=True))
            named = {digest: name for digest, name in names.items() if name is not None}
            for name in named.values():
                pipeline.exists(self._picture(import_id(tenant, name)))
            there = await pipeline.execute() if named else []
        return {digest: name for (digest, name), kept in zip(named.items(), there, strict=True) if kept}

    async def add(self, record: PictureRecord, digest: str, *, anew: bool = False) -> bool:
        """Record the image, and owe it to the index. False: it was recorded already. Raises
        `StoreUnavailable`, `StoreFull`."""
        tenant, name = record.scope, record.name
        identity = import_id(tenant, name)
        rest = record_parts(record.model_copy(update={"job_id": identity}))["rest"]
        added = await self._scripts.run(
            "picture_import",
            self._layout.job_prefix(identity),
            identity,
            tenant,
            name,
            self._keep_s,
            rest,
            int(anew),
        )
        # After the record: a name that leads to no record is none.
        key = self._imported(tenant, digest)
        async with self._guard.store_errors(WHAT), self._client.pipeline(transaction=False) as pipeline:
            pipeline.hset(key, NAME, name)
            pipeline.pexpire(key, int(self._keep_s * 1000))
            await pipeline.execute()
        return bool(added)

    async def remove(self, tenant: str, name: str) -> bool:
        """Delete the record, and owe the index the deletion. False: there was none. Raises
        `StoreUnavailable`."""
        return await self._outbox.erase(import_id(tenant, name)) > 0

    async def in_use(self, name: str) -> bool:
        """Whether any tenant has a record of the image. Raises `StoreUnavailable`."""
        async with self._guard.store_errors(WHAT):
            importers: Any = await self._client.hkeys(f"{self._layout.prefix(name[0])}importers:{name}")
            for identity in importers:
                if await self._client.exists(self._picture(identity)):
                    return True
        return False

    def _picture(self, identity: str) -> str:
        return f"{self._layout.job_prefix(identity)}picture:{identity}"

    def _imported(self, tenant: str, digest: str) -> str:
        return f"{self._layout.prefix(digest[-1])}imported:{tenant}:{digest}"


def imported_pattern(tenant: str) -> str:
    """The pattern of the keys by which the tenant's files are known."""
    return f"{shard_prefix(ANY)}imported:{tenant}:{ANY}"
