"""The first level of the result cache: hot results in the memory of an API process, never beyond what is true elsewhere.

It answers only while it hears what is forgotten: a purge, a deletion, or a new result of the same address is told to every process
on a channel, and whoever loses that channel empties its level before it listens again. A result read before a message and
put in after it would be stale, so one is only kept if nothing at all was told between the two. Beyond that it is bounded by entries and by seconds.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from redis.asyncio import Redis

from backends.pubsub import listen, subscribe
from cache.cache_key import covers
from cache.results import CHANNEL, RedisResultCache
from contracts.clock import Clock
from contracts.errors import StoreUnavailable
from contracts.jobs import CacheStatus, JobResult
from contracts.ports import CacheStats
from contracts.tasks import end
from telemetry.logs import get_logger

log = get_logger(__name__)

COME_BACK_S: Final = 1.0
"""After the channel was lost, or could not be had, it is tried again so often."""


class LocalResultCache:
    """A `ResultCache` in front of another. Listens from the first `get` on; `close` at the end."""

    def __init__(
        self,
        below: RedisResultCache,
        client: Redis,
        clock: Clock,
        *,
        limit: int,
        ttl_s: float,
        timeout_s: float,
    ) -> None:
        self._below = below
        self._client = client
        self._clock = clock
        self._limit = limit
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._entries: OrderedDict[str, tuple[float, JobResult]] = OrderedDict()
        self._told = 0
        self._listening = False
        self._listener: asyncio.Task[None] | None = None
        self._hits = 0

    async def get(self, address: str) -> JobResult | None:
        if (known := self.peek(address)) is not None:
            return known
        remember = self.watch(address)
        result = await self._below.get(address)
        if result is not None:
            remember(result)
        return result

    def peek(self, address: str) -> JobResult | None:
        entry = self._entries.get(address)
        if entry is None:
            return None
        if entry[0] > self._clock.monotonic():
            self._hits += 1
            self._entries.move_to_end(address)
            return entry[1]
        del self._entries[address]
        return None

    def watch(self, address: str) -> Callable[[JobResult], None]:
        if self._listener is None:
            self._listener = asyncio.create_task(self._keep_listening(), name="hot results")
        told = self._told

        def remember(result: JobResult) -> None:
            if self._listening and told == self._told:
                self._entries[address] = (self._clock.monotonic() + self._ttl_s, result)
                if len(self._entries) > self._limit:
                    self._entries.popitem(last=False)

        return remember

    async def put(self, address: str, result: JobResult) -> None:
        self._hear(address)
        await self._below.put(address, result)

    async def delete(self, address: str) -> bool:
        self._hear(address)
        return await self._below.delete(address)

    async def purge(self, pattern: str) -> Sequence[str]:
        purged = await self._below.purge(pattern)
        # Not by the channel alone: who purges here must not be answered from here a moment later.
        self._hear(pattern)
        return purged

    def count(self, outcome: CacheStatus) -> None:
        self._below.count(outcome)

    async def stats(self) -> CacheStats:
        stats = await self._below.stats()
        return replace(stats, hot_entries=len(self._entries), hot_hits=self._hits)

    async def close(self) -> None:
        if self._listener is not None:
            await end(self._listener)
        with suppress(StoreUnavailable):
            await self._below.flush_counts()

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._listen()
            except StoreUnavailable:
                pass
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing is kept here until it listens again
                log.error("result_cache_deaf", error=repr(error))
            await asyncio.sleep(COME_BACK_S)

    async def _listen(self) -> None:
        """Until the channel is lost."""
        pubsub = await subscribe(self._client, [CHANNEL], "result cache", self._timeout_s)
        self._listening = True
        flushing = asyncio.create_task(self._flush())
        try:
            await listen(pubsub, self._hear)
        finally:
            self._listening = False
            self._told += 1
            self._entries.clear()
            await end(flushing)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(COME_BACK_S)
            with suppress(StoreUnavailable):
                await self._below.flush_counts()

    def _hear(self, pattern: str) -> None:
        self._told += 1
        if "*" not in pattern:
            self._entries.pop(pattern, None)
            return
        for address in [each for each in self._entries if covers(pattern, each)]:
            del self._entries[address]
