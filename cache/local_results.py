"""The first level (L1) of the result cache: recent results in the memory of an API process. It
never answers what no longer holds.

A purge, a deletion or a new result of the same address is published on a channel, and every process
forgets its copy. The cache answers only while it listens to the channel. If the connection is lost,
it empties itself before it listens again. A result read before such a message and stored after it
would be stale. So a result is kept only if no message arrived between the two. The number of
entries and their age are bounded too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from redis.asyncio import Redis

from backends.pubsub import listen, subscribe
from cache.cache_key import covers
from cache.results import CHANNEL, RedisResultCache
from contracts.errors import StoreUnavailable
from contracts.jobs import CacheStatus, JobResult
from contracts.ports.clock import Clock
from contracts.ports.result_cache import CacheStats
from runtime.lru import LruCache
from runtime.tasks import end
from telemetry.logs import get_logger

log = get_logger(__name__)

COME_BACK_S: Final = 1.0
"""Seconds between attempts to listen, and between writes of the counts."""


class LocalResultCache:
    """A `ResultCache` in front of a `RedisResultCache`. It listens from the first `get` on. Call
    `close` at the end.

    `limit` bounds the entries, `ttl_s` their age in seconds.
    """

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
        self._redis_results = below
        self._client = client
        self._clock = clock
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._entries = LruCache[str, tuple[float, JobResult]](limit)
        self._forgotten = 0
        self._listening = False
        self._listener: asyncio.Task[None] | None = None
        self._hits = 0

    async def get(self, address: str) -> JobResult | None:
        """The result from this process, else from Redis; None: neither has it. Raises
        `StoreUnavailable`."""
        if (result_here := self.peek(address)) is not None:
            return result_here
        remember = self.watch(address)
        result = await self._redis_results.get(address)
        if result is not None:
            remember(result)
        return result

    def peek(self, address: str) -> JobResult | None:
        """The result that this process holds; None: it holds none. Sends nothing."""
        entry = self._entries.get(address)
        if entry is None:
            return None
        if entry[0] > self._clock.monotonic():
            self._hits += 1
            return entry[1]
        self._entries.pop(address)
        return None

    def watch(self, address: str) -> Callable[[JobResult], None]:
        """Call it before the result is read elsewhere, and call its answer with that result. The
        result is then kept here, unless something was forgotten in between."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen_forever(), name="hot results")
        forgotten_before = self._forgotten

        def remember(result: JobResult) -> None:
            if self._listening and forgotten_before == self._forgotten:
                self._entries[address] = (self._clock.monotonic() + self._ttl_s, result)

        return remember

    async def put(self, address: str, result: JobResult) -> None:
        """Store the result in Redis. Raises `StoreUnavailable`."""
        self._forget(address)
        await self._redis_results.put(address, result)

    async def delete(self, address: str) -> bool:
        """Delete the result here and in Redis. Answers whether Redis had it. Raises
        `StoreUnavailable`."""
        self._forget(address)
        return await self._redis_results.delete(address)

    async def purge(self, pattern: str) -> Sequence[str]:
        """Delete all results of the pattern. Answers their keys. Raises `StoreUnavailable`."""
        purged = await self._redis_results.purge(pattern)
        # Not through the channel alone: a caller that has purged here must not get an old result a
        # moment later.
        self._forget(pattern)
        return purged

    def entries(self) -> AsyncIterator[Sequence[tuple[str, JobResult]]]:
        """All results that can be read, with their addresses, page by page. Raises `StoreUnavailable`."""
        return self._redis_results.entries()

    def count(self, outcome: CacheStatus) -> None:
        """Count how the cache served a job."""
        self._redis_results.count(outcome)

    async def stats(self) -> CacheStats:
        """The statistics of the cache, with those of this process. Raises `StoreUnavailable`."""
        stats = await self._redis_results.stats()
        return replace(stats, hot_entries=len(self._entries), hot_hits=self._hits)

    async def close(self) -> None:
        """Stop listening, and write the counts if Redis can be reached."""
        if self._listener is not None:
            await end(self._listener)
        with suppress(StoreUnavailable):
            await self._redis_results.flush_counts()

    async def _listen_forever(self) -> None:
        while True:
            try:
                await self._listen()
            except StoreUnavailable:
                pass
            except Exception as error:  # noqa: BLE001 - nothing is kept here until it listens again
                log.error("result_cache_deaf", error=repr(error))
            await asyncio.sleep(COME_BACK_S)

    async def _listen(self) -> None:
        """Listens until the channel is lost."""
        pubsub = await subscribe(self._client, [CHANNEL], "result cache", self._timeout_s)
        self._listening = True
        flushing = asyncio.create_task(self._flush())
        try:
            await listen(pubsub, self._forget)
        finally:
            self._listening = False
            self._forgotten += 1
            self._entries.clear()
            await end(flushing)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(COME_BACK_S)
            with suppress(StoreUnavailable):
                await self._redis_results.flush_counts()

    def _forget(self, pattern: str) -> None:
        self._forgotten += 1
        if "*" not in pattern:
            self._entries.pop(pattern)
            return
        for address in [address for address in self._entries if covers(pattern, address)]:
            self._entries.pop(address)
