"""Looking a request up in the result cache: here, in the cache, or in the script that records its job."""

from __future__ import annotations

from contracts.errors import StoreUnavailable
from contracts.jobs import JobResult
from store.stores import Stores
from telemetry import metrics, tracing


async def remembered(stores: Stores, address: str) -> JobResult | None:
    """The result, if this process remembers it by itself and all its pictures are still there."""
    result = stores.results.peek(address)
    return None if result is None else await checked(stores, address, result)


async def looked_up(stores: Stores, address: str) -> JobResult | None:
    """The cached result, if all its pictures are still there. A cache that is away is a miss."""
    with tracing.span("look up in cache"):
        try:
            result = await stores.results.get(address)
        except StoreUnavailable:
            metrics.REPAIRED.labels("cache_lookup").inc()
            return None
        return None if result is None else await checked(stores, address, result)


async def checked(stores: Stores, address: str, result: JobResult) -> JobResult | None:
    """`result`, if all its pictures are still there; else the cache forgets it. A store that is away is a miss."""
    try:
        for image in result.images:
            if not await stores.blobs.exists(image.name):
                await stores.results.delete(address)
                return None
    except StoreUnavailable:
        metrics.REPAIRED.labels("cache_lookup").inc()
        return None
    return result
