"""Looking a request up in the result cache."""

from __future__ import annotations

from cache.stores import Stores
from contracts.errors import StoreUnavailable
from contracts.jobs import JobResult
from telemetry import metrics, tracing


async def looked_up(stores: Stores, address: str) -> JobResult | None:
    """The cached result, if all its pictures are still there. A cache that is away is a miss."""
    with tracing.span("look up in cache"):
        try:
            result = await stores.results.get(address)
            if result is None:
                return None
            for image in result.images:
                if not await stores.blobs.exists(image.name):
                    await stores.results.delete(address)
                    return None
        except StoreUnavailable:
            metrics.REPAIRED.labels("cache_lookup").inc()
            return None
        return result
