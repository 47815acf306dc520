"""Results by address, in a Redis that may evict them. Deliberate deletions are published to all
listeners."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Final

from pydantic import ValidationError
from redis.asyncio import Redis

from backends.redis_client import pages, store_errors
from cache.similar_prompts import RESULT_PREFIX, SIMILAR_PREFIX
from contracts.jobs import CacheStatus, JobResult
from contracts.ports.result_cache import CacheStats

PREFIX: Final = RESULT_PREFIX
COUNTS: Final = "darkroom:results:counts"
CHANNEL: Final = "darkroom:results:forgotten"
"""Carries patterns of results that no longer hold."""
SCAN_COUNT: Final = 1000


class RedisResultCache:
    """The `ResultCache` on a Redis server. Results stay for `ttl_s` seconds, unless Redis evicts
    them."""

    def __init__(self, client: Redis, ttl_s: float, timeout_s: float) -> None:
        self._client = client
        self.ttl_ms = math.ceil(ttl_s * 1000)
        self._timeout_s = timeout_s
        self._counts: Counter[str] = Counter()

    async def get(self, address: str) -> JobResult | None:
        """The result at the address; None: there is none that this version can read. Raises
        `StoreUnavailable`."""
        async with store_errors("result cache", self._timeout_s):
            stored = await self._client.get(PREFIX + address)
        if stored is None:
            return None
        try:
            return JobResult.model_validate_json(stored)
        except ValidationError:
            # Another version wrote it, or it is damaged. It is a miss, and the new result replaces
            # it.
            return None

    async def put(self, address: str, result: JobResult) -> None:
        """Store the result. Publishes the address if it replaces another result. Raises
        `StoreUnavailable`, `StoreFull`."""
        text = result.model_dump_json()
        async with store_errors("result cache", self._timeout_s):
            before = await self._client.set(PREFIX + address, text, px=self.ttl_ms, get=True)
            if before not in (None, text):
                # It replaces a result that other processes may hold.
                await self._client.publish(CHANNEL, address)

    def peek(self, address: str) -> JobResult | None:
        """None: this level holds nothing in the process."""
        return None

    def watch(self, address: str) -> Callable[[JobResult], None]:
        """A function that does nothing: this level holds nothing in the process."""
        return lambda _: None

    async def delete(self, address: str) -> bool:
        """Delete the result, and publish the address. Answers whether there was one. Raises
        `StoreUnavailable`."""
        async with store_errors("result cache", self._timeout_s):
            deleted = await self._client.delete(PREFIX + address)
            await self._client.publish(CHANNEL, address)
        return bool(deleted)

    async def purge(self, pattern: str) -> Sequence[str]:
        """Delete all results of the pattern, and publish it. Answers their keys. Raises
        `StoreUnavailable`.

        The prompts that similar ones are compared with go with them, if the pattern names no key.
        """
        keys: list[str] = []
        similar = pages(self._client, "result cache", self._timeout_s, SIMILAR_PREFIX + pattern, SCAN_COUNT)
        async for names in similar:
            async with store_errors("result cache", self._timeout_s):
                await self._client.unlink(*names)
        async for names in self._pages(pattern):
            async with store_errors("result cache", self._timeout_s):
                await self._client.unlink(*names)
            keys += [name.rpartition(".")[2] for name in names]
        async with store_errors("result cache", self._timeout_s):
            # After the last deletion: a process that read an old result gets the message after
            # that.
            await self._client.publish(CHANNEL, pattern)
        return keys

    async def entries(self) -> AsyncIterator[Sequence[tuple[str, JobResult]]]:
        """All results that can be read, with their addresses, page by page. Raises `StoreUnavailable`."""
        async for names in self._pages("*"):
            async with (
                store_errors("result cache", self._timeout_s),
                self._client.pipeline(transaction=False) as pipeline,
            ):
                for name in names:
                    pipeline.get(name)
                texts = await pipeline.execute()
            page = []
            for name, text in zip(names, texts, strict=True):
                with suppress(ValidationError):
                    if text is not None:
                        page.append((name.removeprefix(PREFIX), JobResult.model_validate_json(text)))
            yield page

    def count(self, outcome: CacheStatus) -> None:
        """Count how the cache served a job. `flush_counts` writes it."""
        self._counts[outcome.value] += 1

    async def flush_counts(self) -> None:
        """Add the counts of this process to those in Redis. Raises `StoreUnavailable`."""
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            async with (
                store_errors("result cache", self._timeout_s),
                self._client.pipeline(transaction=False) as pipeline,
            ):
                for outcome, number in counts.items():
                    pipeline.hincrby(COUNTS, outcome, number)
                await pipeline.execute()
        except BaseException:
            self._counts += counts
            raise

    async def stats(self) -> CacheStats:
        """The statistics of all processes, and the memory of the whole server. Raises
        `StoreUnavailable`."""
        await self.flush_counts()
        entries = 0
        async for names in self._pages("*"):
            entries += len(names)
        async with store_errors("result cache", self._timeout_s):
            counts = await self._client.hgetall(COUNTS)
            memory = await self._client.info("memory")
            stats = await self._client.info("stats")
        return CacheStats(
            hits=int(counts.get(CacheStatus.HIT, 0)),
            misses=int(counts.get(CacheStatus.MISS, 0)),
            joined=int(counts.get(CacheStatus.JOINED, 0)),
            entries=entries,
            memory_bytes=int(memory["used_memory"]),
            memory_limit_bytes=int(memory.get("maxmemory", 0)),
            evictions=int(stats["evicted_keys"]),
        )

    def _pages(self, pattern: str) -> AsyncIterator[list[str]]:
        return pages(self._client, "result cache", self._timeout_s, PREFIX + pattern, SCAN_COUNT)
