"""How much Redis memory each tenant's records take, counted as they are written, and how full Redis
is.

`darkroom:kept:<tenant>` is a hash of bytes by the time until which they are kept, in Unix seconds.
The next `add` deletes the fields that have lapsed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

from backends.redis_client import store_errors
from contracts.memory_use import Lapses, Memory
from contracts.ports.clock import Clock
from store.key_names import PREFIX

KEPT_PREFIX: Final = f"{PREFIX}kept:"


async def memory_of(client: Redis, timeout_s: float) -> Sequence[Memory]:
    """The memory of each server that the client writes to. Raises `StoreUnavailable`."""
    several: Any = client
    async with store_errors("job store", timeout_s):
        if not isinstance(several, RedisCluster):
            return [memory_in(await client.info("memory"))]
        await several.initialize()
        return [
            memory_in(await several.info("memory", target_nodes=node)) for node in several.get_primaries()
        ]


def memory_in(info: Mapping[str, Any]) -> Memory:
    """The memory in a server's INFO, as its `maxmemory` counts it. Pure."""
    # The buffers of replicas and of the append-only file do not count (evict.c, `freeMemoryGetNotCountedMemory`).
    uncounted = int(info.get("mem_not_counted_for_evict", 0))
    return Memory(int(info.get("used_memory", 0)) - uncounted, int(info.get("maxmemory", 0)))


class RedisMemoryUseStore:
    """The `MemoryUseStore` on one Redis server or cluster."""

    def __init__(self, client: Redis, clock: Clock, timeout_s: float) -> None:
        self._client = client
        self._clock = clock
        self._timeout_s = timeout_s

    async def memory(self) -> Sequence[Memory]:
        """The memory of each server of the state. Raises `StoreUnavailable`."""
        return await memory_of(self._client, self._timeout_s)

    async def add(self, more: Mapping[str, Lapses]) -> Mapping[str, Lapses]:
        """Add bytes by the time until which they are kept, for each tenant. Answers the sums of all
        processes. Raises `StoreUnavailable`, `StoreFull`."""
        now = self._clock.now()
        async with (
            store_errors("job store", self._timeout_s),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            for tenant in more:
                pipeline.hgetall(KEPT_PREFIX + tenant)
            known = await pipeline.execute()
            for (tenant, lapses), before in zip(more.items(), known, strict=True):
                key = KEPT_PREFIX + tenant
                if lapsed := [time for time in before if int(time) <= now]:
                    pipeline.hdel(key, *lapsed)
                for time, size in lapses.items():
                    pipeline.hincrby(key, str(time), size)
                if lapses:
                    pipeline.expireat(key, max(*map(int, before), *lapses, 0))
            for outcome in await pipeline.execute(False):
                if isinstance(outcome, RedisError):
                    raise outcome
        return {
            tenant: _sum(lapses, before) for (tenant, lapses), before in zip(more.items(), known, strict=True)
        }


def _sum(lapses: Lapses, before: Mapping[str, str]) -> Lapses:
    total: dict[int, int] = defaultdict(int, lapses)
    for time, size in before.items():
        total[int(time)] += int(size)
    return dict(total)
