"""Looks a result up: in this process, in the result cache, or in the answer of the script that
records the job."""

from __future__ import annotations

from contracts.errors import StoreUnavailable
from contracts.jobs import JobResult
from store.stores import Stores
from telemetry import metrics, tracing


async def remembered(stores: Stores, address: str) -> JobResult | None:
    """The result at `address`, if this process remembers it and all its images still exist; else None."""
    result = stores.results.peek(address)
    return None if result is None else await checked(stores, address, result)


async def looked_up(stores: Stores, address: str) -> JobResult | None:
    """The cached result at `address`, if all its images still exist; else None.

    An unavailable cache is a miss.
    """
    with tracing.span("look up in cache"):
        try:
            result = await stores.results.get(address)
        except StoreUnavailable:
            metrics.REPAIRED.labels("cache_lookup").inc()
            return None
        return None if result is None else await checked(stores, address, result)


async def checked(stores: Stores, address: str, result: JobResult) -> JobResult | None:
    """`result`, if all its images still exist.

    Else the cache forgets it, and this returns None. An unavailable store is a miss.
    """
    try:
        for image in result.images:
            if not await stores.blobs.exists(image.name):
                await stores.results.delete(address)
                return None
    except StoreUnavailable:
        metrics.REPAIRED.labels("cache_lookup").inc()
        return None
    return result
