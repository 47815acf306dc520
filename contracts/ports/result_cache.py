"""The port of the result cache, and its statistics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from contracts.jobs import CacheStatus, JobResult


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counters and contents of the result cache.

    `hits`, `misses` and `joined` count jobs since the cache was created. Memory and evictions are those of
    its whole server. `hot_entries` and `hot_hits` are of the local result cache (L1) of this process.
    """

    hits: int
    misses: int
    joined: int
    entries: int
    memory_bytes: int
    memory_limit_bytes: int
    evictions: int
    hot_entries: int = 0
    hot_hits: int = 0


class ResultCache(Protocol):
    """Results by address (`cache.cache_key.result_address`), with a time to live.

    May drop an entry at any time.
    """

    async def get(self, address: str) -> JobResult | None:
        """The result at `address`, from this process or the shared cache; None: a miss."""
        ...

    def peek(self, address: str) -> JobResult | None:
        """The result in this process's own memory; makes no request."""
        ...

    def watch(self, address: str) -> Callable[[JobResult], None]:
        """Prepare to remember a result that arrives by another way (`contracts.transitions.Found`).

        Call this before the lookup, and call the returned function with the result. This process then
        remembers the result, unless something was deleted in between.
        """
        ...

    async def put(self, address: str, result: JobResult) -> None:
        """Store `result` at `address` for the time to live."""
        ...

    async def delete(self, address: str) -> bool:
        """Delete the result at `address` everywhere. Returns whether there was one."""
        ...

    async def purge(self, pattern: str) -> Sequence[str]:
        """Delete all results that match `pattern` (`cache.cache_key.result_pattern`), in every process.

        Returns their cache keys. Results of computations that are still running are stored afterwards.
        """
        ...

    def entries(self) -> AsyncIterator[Sequence[tuple[str, JobResult]]]:
        """All results with their addresses, page by page. One that cannot be read is left out: nobody is
        answered with it."""
        ...

    def count(self, outcome: CacheStatus) -> None:
        """Count how the cache answered a job."""
        ...

    async def stats(self) -> CacheStats:
        """Counters and contents of the cache now."""
        ...
