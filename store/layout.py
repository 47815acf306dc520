"""The layout of the job store: the number of namespaces that hold its jobs. The store records it. A
process with another setting touches nothing: it would find no job, and would record its own where
no process looks for them.

The first process that opens an empty store writes the document. The sweeper writes it again if it
is gone, as after the store was emptied, and checks whether it has changed (`lua/elect.lua`). For a
store without the document, the marks that each sweep leaves in every namespace tell the number.
Versions before this document had 16 namespaces.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError
from redis.asyncio import Redis

from backends.redis_client import connect, disconnect, store_errors
from contracts.documents import Document
from contracts.errors import SettingsError, StoreFull, StoreUnavailable
from contracts.ids import SHARDS, ShardCount
from contracts.settings import BackendSettings
from store.key_names import HOUSE, shard_prefix

SCHEMA: Final = 1
"""The schema of the keys in each namespace. Raised by a version that stores jobs in a way that
earlier versions cannot read."""
LAYOUT_KEY: Final = f"{HOUSE}layout"
MIGRATION_KEY: Final = f"{HOUSE}migration"
"""Exists while `darkroom migrate` moves jobs, and stays if it breaks off."""
SETTING: Final = "DARKROOM_STORE_SHARDS"
_COUNTS: Final[tuple[Literal[0, 1, 2, 4, 8, 16], ...]] = (0, 1, 2, 4, 8, 16)
_MIGRATE: Final = "stop all processes and run `darkroom migrate`"


class StoreLayout(Document):
    """The document in which the store records its layout."""

    schema_number: Annotated[int, Field(ge=1, alias="schema")] = SCHEMA
    shards: ShardCount

    def to_json(self) -> str:
        """The document as JSON, under its stored names."""
        return self.model_dump_json(by_alias=True)


class LayoutMismatch(SettingsError):
    """The store has another layout than the settings say, or one that this version does not know."""


async def stored_layout(client: Redis, timeout_s: float) -> StoreLayout | None:
    """The layout that the store has; None: it is empty. Raises `LayoutMismatch` for a document that
    cannot be read, `StoreUnavailable`."""
    async with store_errors("job store", timeout_s):
        document: Any = await client.get(LAYOUT_KEY)
    if document is not None:
        return _read(document)
    used = await used_shards(client, timeout_s)
    return StoreLayout(shards=used) if used else None


async def used_shards(client: Redis, timeout_s: float) -> Literal[0, 1, 2, 4, 8, 16]:
    """How many namespaces are needed for all that were ever used, whatever the document says.
    Versions before the document write to 16 without reading it. Raises `StoreUnavailable`."""
    async with store_errors("job store", timeout_s), client.pipeline(transaction=False) as pipeline:
        for shard in SHARDS:
            # Every sweep leaves a mark, every job is counted.
            pipeline.exists(f"{shard_prefix(shard)}mark")
            pipeline.exists(f"{shard_prefix(shard)}counts")
        existing = await pipeline.execute()
    last = max((number // 2 for number, exists in enumerate(existing) if exists), default=-1)
    return next(count for count in _COUNTS if last < count)


def _read(document: str) -> StoreLayout:
    try:
        layout = StoreLayout.model_validate_json(document)
    except ValidationError:
        raise LayoutMismatch(
            "The state Redis holds a layout of jobs that this version cannot read."
        ) from None
    if layout.schema_number > SCHEMA:
        raise LayoutMismatch(
            f"The state Redis keeps its jobs by schema {layout.schema_number}, and this version knows {SCHEMA}: use the version"
            " that wrote it."
        )
    return layout


async def require_layout(settings: BackendSettings) -> None:
    """Checks the layout at the start of a process. An unreachable store is checked at its first use
    instead (`LayoutGuard.require`).

    Raises `LayoutMismatch` where the job store has another layout than the settings.
    """
    client = connect(settings.redis_url, settings.redis_timeout_s)
    try:
        with suppress(StoreUnavailable):
            await LayoutGuard(client, settings.shards, settings.redis_timeout_s).check()
    finally:
        await disconnect(client)


class LayoutGuard:
    """Checks once whether the store has the layout of the settings, and lets every call pass after
    that."""

    def __init__(self, client: Redis, shards: int, timeout_s: float) -> None:
        self._client = client
        self._shards = shards
        self._timeout_s = timeout_s
        self.passed = False
        self._one_at_a_time = asyncio.Lock()
        self._begun = 0
        """Number of checks that `require` has begun."""
        self._refusal: StoreUnavailable | None = None
        """Why the latest of them failed; None: it did not."""
        self.document = StoreLayout(shards=shards).to_json()

    async def check(self) -> None:
        """Raises `LayoutMismatch` or `StoreUnavailable`. Writes the layout of an empty store, where
        there is room for it."""
        stored = await stored_layout(self._client, self._timeout_s)
        if stored is None or stored.shards <= self._shards:
            # Redis at its `maxmemory` refuses even a write that would change nothing. Accepted jobs
            # must end all the same. The sweeper writes the document later, whether there is room or
            # not.
            with suppress(StoreFull):
                async with store_errors("job store", self._timeout_s):
                    await self._client.set(LAYOUT_KEY, self.document, nx=True)
            # Another process may have been first, with another setting.
            stored = await stored_layout(self._client, self._timeout_s)
        async with store_errors("job store", self._timeout_s):
            moving: Any = await self._client.exists(MIGRATION_KEY)
        if moving:
            raise LayoutMismatch(f"A migration of the job store has not ended: {_MIGRATE} again.")
        if stored is not None and stored.shards != self._shards:
            raise LayoutMismatch(self._mismatch(stored.shards))
        if await used_shards(self._client, self._timeout_s) > self._shards:
            raise LayoutMismatch(
                f"An older version has written to the job store since it was migrated: {_MIGRATE} again."
            )
        self.passed = True

    async def require(self) -> None:
        """As `check`, for a running process. It then answers every request with `StoreUnavailable`
        and the reason.

        One caller checks at a time, and those that wait share its outcome. With redis-py 8.1, many
        checks at once on a busy machine made the client of a cluster close connections in use by
        others. Raises `StoreUnavailable`.
        """
        begun = self._begun
        async with self._one_at_a_time:
            if self.passed:
                return
            if self._begun > begun and self._refusal is not None:
                raise type(self._refusal)(self._refusal.message) from self._refusal
            self._begun, self._refusal = self._begun + 1, None
            try:
                await self.check()
            except LayoutMismatch as error:
                self._refusal = StoreUnavailable(str(error))
                raise self._refusal from None
            except StoreUnavailable as error:
                self._refusal = error
                raise

    async def again(self) -> None:
        """As `require`, after an earlier check has passed and another version may have changed the
        store."""
        self.passed = False
        await self.require()

    @asynccontextmanager
    async def store_errors(self, what: str = "job store") -> AsyncIterator[None]:
        """As `backends.redis_client.store_errors`, for commands outside of scripts. Also raises as
        `require`."""
        if not self.passed:
            await self.require()
        async with store_errors(what, self._timeout_s):
            yield

    def changed(self) -> StoreUnavailable:
        """The error for a layout that has changed. From now on no call passes."""
        self.passed = False
        return StoreUnavailable(
            f"The layout of the job store has changed: {SETTING} is {self._shards} here, and that is no longer what Redis says."
        )

    def _mismatch(self, stored: int) -> str:
        return (
            f"{SETTING} is {self._shards}, and the state Redis keeps its jobs in {stored}: {_MIGRATE} to move them, or set {SETTING} to"
            f" {stored}."
        )
