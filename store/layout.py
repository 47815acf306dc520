"""The layout of the job store: in how many namespaces its jobs lie. The store itself says so, and a process that was set up for
another layout touches nothing: it would find no job, and record its own where nobody looks for them.

The first process that opens an empty store writes the document; every keeper of the house writes it again where it is gone (a
store that was emptied) and looks whether it has changed (`lua/elect.lua`). A store without it is told by the marks that each sweep
leaves in every namespace: versions before this document had 16.
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
"""Of the keys in each namespace. It rises when a version keeps jobs in another way than the one before can read."""
LAYOUT_KEY: Final = f"{HOUSE}layout"
MIGRATION_KEY: Final = f"{HOUSE}migration"
"""Is there while `darkroom migrate` moves jobs, and stays where it broke off."""
SETTING: Final = "DARKROOM_STORE_SHARDS"
_COUNTS: Final[tuple[Literal[0, 1, 2, 4, 8, 16], ...]] = (0, 1, 2, 4, 8, 16)
_MIGRATE: Final = "stop all processes and run `darkroom migrate`"


class StoreLayout(Document):
    """What the store says of itself."""

    schema_number: Annotated[int, Field(ge=1, alias="schema")] = SCHEMA
    shards: ShardCount

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True)


class LayoutMismatch(SettingsError):
    """The store has another layout than the settings say, or one that this version does not know."""


async def stored_layout(client: Redis, timeout_s: float) -> StoreLayout | None:
    """What the store says; None: nothing, for it is empty, or as good as that. Raises `LayoutMismatch` for what cannot be read,
    `StoreUnavailable`."""
    async with store_errors("job store", timeout_s):
        told: Any = await client.get(LAYOUT_KEY)
    if told is not None:
        return _read(told)
    used = await used_shards(client, timeout_s)
    return StoreLayout(shards=used) if used else None


async def used_shards(client: Redis, timeout_s: float) -> Literal[0, 1, 2, 4, 8, 16]:
    """How many namespaces there must be for all that were ever used, whatever the document says. Versions before it write to 16 without
    a look at it. Raises `StoreUnavailable`."""
    async with store_errors("job store", timeout_s), client.pipeline(transaction=False) as pipeline:
        for shard in SHARDS:
            # Every sweep leaves a mark, every job is counted.
            pipeline.exists(f"{shard_prefix(shard)}mark")
            pipeline.exists(f"{shard_prefix(shard)}counts")
        found = await pipeline.execute()
    last = max((number // 2 for number, there in enumerate(found) if there), default=-1)
    return next(count for count in _COUNTS if last < count)


def _read(told: str) -> StoreLayout:
    try:
        layout = StoreLayout.model_validate_json(told)
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
    """For a process at its start. Raises `LayoutMismatch` where the job store has another layout than the settings say. A store that is
    away is asked at its first use (`LayoutGuard.require`)."""
    client = connect(settings.redis_url, settings.redis_timeout_s)
    try:
        with suppress(StoreUnavailable):
            await LayoutGuard(client, settings.shards, settings.redis_timeout_s).check()
    finally:
        await disconnect(client)


class LayoutGuard:
    """Asks the store once whether it has the layout of the settings, and then lets everything pass."""

    def __init__(self, client: Redis, shards: int, timeout_s: float) -> None:
        self._client = client
        self._shards = shards
        self._timeout_s = timeout_s
        self.passed = False
        self._one_at_a_time = asyncio.Lock()
        self._begun = 0
        """Checks that `require` has begun."""
        self._refusal: StoreUnavailable | None = None
        """Why the last of them did not pass."""
        self.document = StoreLayout(shards=shards).to_json()

    async def check(self) -> None:
        """Raises `LayoutMismatch`, `StoreUnavailable`. Writes the layout of an empty store, where there is room for it."""
        stored = await stored_layout(self._client, self._timeout_s)
        if stored is None or stored.shards <= self._shards:
            # Redis at its `maxmemory` refuses even what would change nothing. What was accepted must end all the same, and the
            # keeper of the house writes the document, whatever the room.
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
            raise LayoutMismatch(self._words(stored.shards))
        if await used_shards(self._client, self._timeout_s) > self._shards:
            raise LayoutMismatch(
                f"An older version has written to the job store since it was migrated: {_MIGRATE} again."
            )
        self.passed = True

    async def require(self) -> None:
        """As `check`, for a process that is under way: its answer to every request is then `StoreUnavailable`, with the reason.

        One caller checks at a time. Those that wait share its outcome. With redis-py 8.1, many checks at once on a busy machine made
        the client of a cluster close connections that others used.
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
        """As `require`, where it has passed before, and another version may have been at work since."""
        self.passed = False
        await self.require()

    @asynccontextmanager
    async def store_errors(self, what: str = "job store") -> AsyncIterator[None]:
        """As `backends.redis_client.store_errors`, for what no script does; and raises as `require`."""
        if not self.passed:
            await self.require()
        async with store_errors(what, self._timeout_s):
            yield

    def changed(self) -> StoreUnavailable:
        """The layout is another one than it was: from now on nothing passes."""
        self.passed = False
        return StoreUnavailable(
            f"The layout of the job store has changed: {SETTING} is {self._shards} here, and that is no longer what Redis says."
        )

    def _words(self, stored: int) -> str:
        return (
            f"{SETTING} is {self._shards}, and the state Redis keeps its jobs in {stored}: {_MIGRATE} to move them, or set {SETTING} to"
            f" {stored}."
        )
