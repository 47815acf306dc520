"""Fills a state Redis from a snapshot with plain commands over a connection. Its version, its files
and its append-only file do not matter."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from redis.asyncio import Redis

from backends.redis_client import pages, store_errors, unlink
from contracts.ids import SHARDS
from store import model_directory
from store.key_names import HOUSE, PREFIX, shard_prefix
from store.layout import LAYOUT_KEY
from store.rdb import Entry

UNFINISHED: Final = f"{PREFIX}restoring"
"""Exists while a restore runs, and stays if it breaks off."""
KEEPER: Final = f"{HOUSE}keeper"
"""The key of the sweeper lease."""
WORKERS: Final = f"{model_directory.PREFIX}worker:"
PAGE: Final = 500
BATCH_BYTES: Final = 1 << 20
MEMBERS: Final = 1000
"""Values in one command. Even, since they may come in pairs."""
_ADD: Final = {"list": "RPUSH", "set": "SADD", "zset": "ZADD", "hash": "HSET"}


async def holds_state(client: Redis, timeout_s: float) -> bool:
    """Whether Redis holds anything that a restore would destroy. What processes write at their
    start does not count: one may have run on an empty Redis. Raises `StoreUnavailable`."""
    async for keys in pages(client, "job store", timeout_s, f"{PREFIX}*", PAGE):
        if not all(key in (KEEPER, LAYOUT_KEY) or key.startswith(model_directory.PREFIX) for key in keys):
            return True
    return False


async def in_use(client: Redis, timeout_s: float) -> bool:
    """Whether an API process or a worker was active in the last seconds. Raises
    `StoreUnavailable`."""
    async with store_errors("job store", timeout_s):
        swept = await client.exists(KEEPER)
    async for _ in pages(client, "job store", timeout_s, f"{WORKERS}*", PAGE):
        return True
    return bool(swept)


async def memory_limit(client: Redis, timeout_s: float) -> int:
    """`maxmemory` in bytes, of a cluster the sum of its nodes; 0: no limit. Raises
    `StoreUnavailable`."""
    async with store_errors("job store", timeout_s):
        info: dict[str, Any] = await client.info("memory")
    nodes = [info] if "used_memory" in info else list(info.values())
    limits = [int(node.get("maxmemory", 0)) for node in nodes]
    return sum(limits) if all(limits) else 0


async def wipe(client: Redis, timeout_s: float) -> None:
    """Deletes every key of the platform. Raises `StoreUnavailable`."""
    async for keys in pages(client, "job store", timeout_s, f"{PREFIX}*", PAGE):
        async with store_errors("job store", timeout_s), client.pipeline(transaction=False) as pipeline:
            for key in keys:
                unlink(pipeline, key)
            await pipeline.execute()


async def fill(
    client: Redis, entries: Iterable[Entry], now_ms: int, timeout_s: float, on_batch: Callable[[int], None]
) -> int:
    """Writes the entries that have not expired. Answers how many they are. `on_batch` is called
    with the number of entries of each batch.

    `now_ms` is Unix time in milliseconds. Raises `StoreUnavailable`. Part of the entries is written
    then, and `UNFINISHED` stays.
    """
    async with store_errors("job store", timeout_s):
        await client.set(UNFINISHED, "1")
    written = 0
    for batch in _batches(entries):
        live = [entry for entry in batch if entry.expires_ms is None or entry.expires_ms > now_ms]
        async with store_errors("job store", timeout_s), client.pipeline(transaction=False) as pipeline:
            for entry in live:
                _write(pipeline, entry)
            await pipeline.execute()
        written += len(live)
        on_batch(len(batch))
    await _owe_messages(client, timeout_s)
    async with store_errors("job store", timeout_s):
        await client.delete(UNFINISHED)
    return written


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += sum(map(len, entry.values))
        if len(batch) == PAGE or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write(pipeline: Any, entry: Entry) -> None:
    values = entry.values
    if entry.kind == "string":
        pipeline.set(entry.key, values[0])
    else:
        for begin in range(0, len(values), MEMBERS):
            part = values[begin : begin + MEMBERS]
            if entry.kind == "zset":
                # The score comes first. It is passed on as written, so no digit is lost.
                part = tuple(itertools.chain.from_iterable(zip(part[1::2], part[::2], strict=True)))
            pipeline.execute_command(_ADD[entry.kind], entry.key, *part)
    if entry.expires_ms is not None:
        pipeline.pexpireat(entry.key, entry.expires_ms)


async def _owe_messages(client: Redis, timeout_s: float) -> None:
    """Puts every waiting job into the outbox, so that the sweeper publishes it. The broker may have
    lost its message, or never had it. If it has one, the job recognises the second message."""
    for shard in SHARDS:
        prefix = shard_prefix(shard)
        async for keys in pages(client, "job store", timeout_s, f"{prefix}waiting:*", PAGE):
            for key in keys:
                async with store_errors("job store", timeout_s):
                    waiting: Any = await client.zrange(key, 0, -1)
                    for begin in range(0, len(waiting), MEMBERS):
                        part = dict.fromkeys(waiting[begin : begin + MEMBERS], 0.0)
                        await client.zadd(f"{prefix}outbox", part, nx=True)
