"""Moves a store's jobs to another number of namespaces, by plain commands, while no process runs.

Everything is written at its new place before it is deleted at its old one. Writing it twice changes
nothing, so a migration that broke off continues when it is started again. `MIGRATION_KEY` holds
what is to be done. No process starts while that key exists.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.asyncio import Redis

from backends.redis_client import pages, store_errors
from contracts.documents import Document
from contracts.ids import SHARDS, ShardCount
from store.key_names import PREFIX, Layout, shard_prefix
from store.layout import LAYOUT_KEY, MIGRATION_KEY, SETTING, StoreLayout, stored_layout, used_shards

PAGE: Final = 500
MEMBERS: Final = 1000
"""Members of a list or a sorted set that one command writes."""
_NAME: Final = re.compile(rf"{PREFIX}\{{s([0-9a-f])\}}:(([a-z]+)(?::(.*))?)", re.DOTALL)
_PATTERN: Final = f"{PREFIX}{{s?}}:*"
_OF_ONE: Final = {
    "job": "hash",
    "hook": "hash",
    "picture": "hash",
    "imported": "hash",
    "importers": "hash",
    "review": "hash",
    "held": "hash",
    "flight": "hash",
    "hooklog": "list",
    "followers": "list",
}
"""Kinds of keys of one job, one cache key or one imported image, and their types."""
_OF_KEY: Final = ("flight", "followers", "importers")
"""Those of them that belong to a cache key, or to the name of an image: the first digit says where they lie."""
_OF_MANY: Final = (
    "outbox",
    "leases",
    "deadlines",
    "hooks",
    "unindexed",
    "unwanted",
    "reviews",
    "reviewed",
    "unapplied",
    "discards",
    "unlooked",
    "refunds",
    "waiting",
    "tenant",
)
"""Kinds of sorted sets of job ids, or of other names whose last digit says where they lie."""
_OF_SHARD: Final = ("counts", "mark")
"""Kinds of keys of a whole shard. `Migration` holds their values."""


_KNOWN: Final = (*_OF_ONE, *_OF_MANY, *_OF_SHARD)


class MigrationRefused(Exception):
    """The store does not allow the migration. The message says why, and what to do."""


class Migration(Document):
    """What is to be done. `counts` are the counters of each new shard, `mark` is the time of the
    last sweep."""

    before: ShardCount
    shards: ShardCount
    counts: dict[str, dict[str, int]]
    mark: str | None = None


async def begun(client: Redis, shards: int, timeout_s: float) -> Migration | None:
    """The migration to `shards`, begun now or before. None: there is nothing to do. Raises
    `MigrationRefused`, `LayoutMismatch`, `StoreUnavailable`."""
    async with store_errors("job store", timeout_s):
        document: Any = await client.get(MIGRATION_KEY)
    if document is not None:
        migration = Migration.model_validate_json(document)
        if migration.shards != shards:
            raise MigrationRefused(
                f"A migration to {migration.shards} shards has begun: end it first, with {SETTING}={migration.shards}."
            )
        return migration
    stored = await stored_layout(client, timeout_s)
    used = await used_shards(client, timeout_s)
    if stored is None or (stored.shards == shards and used <= shards):
        return None
    layout, sums, marks = Layout(shards), defaultdict[str, dict[str, int]](dict), list[str]()
    async with store_errors("job store", timeout_s), client.pipeline(transaction=False) as pipeline:
        for shard in SHARDS:
            pipeline.hgetall(f"{shard_prefix(shard)}counts")
            pipeline.get(f"{shard_prefix(shard)}mark")
        answers = await pipeline.execute()
    for shard, counted, mark in zip(SHARDS, answers[::2], answers[1::2], strict=True):
        total = sums[layout.name(shard)]
        for name, number in counted.items():
            total[name] = total.get(name, 0) + int(number)
        marks += [mark] if mark else []
    latest = max(marks, key=float, default=None)
    migration = Migration(before=max(stored.shards, used), shards=shards, counts=dict(sums), mark=latest)
    async with store_errors("job store", timeout_s):
        await client.set(MIGRATION_KEY, migration.model_dump_json(), nx=True)
    return migration


async def survey(client: Redis, timeout_s: float) -> int:
    """How many keys there are to look at. Raises `MigrationRefused` for a kind of key that this
    version does not know, `StoreUnavailable`."""
    count = 0
    async for keys in pages(client, "job store", timeout_s, _PATTERN, PAGE):
        count += len(keys)
        for key in keys:
            match = _NAME.fullmatch(key)
            if (
                match is None
                or match[3] not in _KNOWN
                or (match[3] in _OF_ONE and not _digit(*match.groups()[2:]))
            ):
                raise MigrationRefused(
                    f"{key} is of a version that this one does not know: use that one to migrate."
                )
    return count


async def move(client: Redis, migration: Migration, timeout_s: float, on_page: Callable[[int], None]) -> None:
    """Moves every job with all its keys. `on_page` is called with the number of keys of each page.
    Raises `StoreUnavailable`; call it again for the rest."""
    layout = Layout(migration.shards)
    async for keys in pages(client, "job store", timeout_s, _PATTERN, PAGE):
        whole = list[tuple[str, str, str]]()
        for key in keys:
            match = _NAME.fullmatch(key)
            if match is None:
                continue
            _, name, kind, of = match.groups()
            if kind in _OF_ONE:
                target = layout.prefix(_digit(kind, of)) + name
                if target != key:
                    whole.append((key, target, _OF_ONE[kind]))
            elif kind in _OF_MANY:
                await _move_members(client, key, name, layout, timeout_s)
        await _move_whole(client, whole, timeout_s)
        on_page(len(keys))


def _digit(kind: str, of: str | None) -> str:
    """The digit of an id or a cache key that decides where the key lies; empty where there is none.
    Pure."""
    digit = (of or "")[:1] if kind in _OF_KEY else (of or "")[-1:]
    return digit if digit and digit in SHARDS else ""


async def end(client: Redis, migration: Migration, timeout_s: float) -> None:
    """Writes the counters at their new places, then the new layout. Raises `StoreUnavailable`."""
    layout = Layout(migration.shards)
    async with store_errors("job store", timeout_s):
        for shard in SHARDS:
            prefix = shard_prefix(shard)
            counts = migration.counts.get(shard, {}) if shard in layout.names else {}
            async with client.pipeline(transaction=True) as pipeline:
                pipeline.delete(f"{prefix}counts", f"{prefix}mark")
                if counts:
                    pipeline.hset(f"{prefix}counts", mapping=dict[Any, Any](counts))
                if migration.mark and shard in layout.names:
                    pipeline.set(f"{prefix}mark", migration.mark)
                await pipeline.execute()
        async with client.pipeline(transaction=True) as pipeline:
            pipeline.set(LAYOUT_KEY, StoreLayout(shards=migration.shards).to_json())
            pipeline.delete(MIGRATION_KEY)
            await pipeline.execute()


async def _move_whole(client: Redis, keys: Sequence[tuple[str, str, str]], timeout_s: float) -> None:
    """Moves whole keys, each given by its old name, its new name and its type."""
    if not keys:
        return
    async with store_errors("job store", timeout_s), client.pipeline(transaction=False) as pipeline:
        for source, _, kind in keys:
            pipeline.hgetall(source) if kind == "hash" else pipeline.lrange(source, 0, -1)
            pipeline.pttl(source)
        moving = await pipeline.execute()
        # Two versions that ran in turn may each have a computation of one key. All their followers
        # then follow the one that is at the target.
        for _, target, kind in keys:
            pipeline.hgetall(target) if kind == "hash" else pipeline.lrange(target, 0, -1)
            pipeline.pttl(target)
        existing = await pipeline.execute()
        for (_, target, kind), value, left_ms, present, present_ms in zip(
            keys, moving[::2], moving[1::2], existing[::2], existing[1::2], strict=True
        ):
            if not value or left_ms in (-2, 0):
                continue  # it expired just now
            if kind == "hash":
                if present.get("leader") not in (None, value.get("leader")) and "result" not in present:
                    continue
                pipeline.delete(target)
                pipeline.hset(target, mapping=value)
            else:
                known = set(present)
                value = [job_id for job_id in value if job_id not in known]
            for begin in range(0, len(value) if kind == "list" else 0, MEMBERS):
                pipeline.rpush(target, *value[begin : begin + MEMBERS])
            if left_ms > 0 and (kind == "hash" or left_ms > present_ms):
                pipeline.pexpire(target, left_ms)
        await pipeline.execute()
        for source, _, _ in keys:
            pipeline.delete(source)
        await pipeline.execute()


async def _move_members(client: Redis, source: str, name: str, layout: Layout, timeout_s: float) -> None:
    """Moves the ids of a sorted set, each to the shard of its last digit. A set with a time to live
    keeps at least that."""
    cursor = None
    while cursor != 0:
        async with store_errors("job store", timeout_s):
            left_ms = await client.pttl(source)
            cursor, page = await client.zscan(source, cursor or 0, count=MEMBERS)
            members: Any = page
            places = defaultdict[str, dict[str, float]](dict)
            for job_id, score in members:
                target = layout.job_prefix(job_id) + name
                if target != source:
                    places[target][job_id] = score
            for target, scores in places.items():
                await client.zadd(target, scores)
                if left_ms > 0 and await client.pttl(target) < left_ms:
                    await client.pexpire(target, left_ms)
                await client.zrem(source, *scores)
