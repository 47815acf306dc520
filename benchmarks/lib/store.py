"""What only the store tells: how long fair takes take, how many jobs wait, how much memory Redis holds."""

from __future__ import annotations

import time
from typing import Final

from redis import Redis

from contracts.settings import BackendSettings
from store.stores import open_stores

TAKEN: Final = 8
"""Jobs of one take: a full batch."""


async def takes(redis_url: str, model: str, count: int) -> list[float]:
    """Milliseconds of taking `TAKEN` jobs in fair order, each given back before the next."""
    stores = open_stores(BackendSettings(redis_url=redis_url))
    found = []
    try:
        for _ in range(count):
            begun = time.perf_counter()
            taken = await stores.jobs.take(model, "worker-of-the-benchmark", TAKEN)
            # One that meets the worker's own answers less, and tells nothing.
            if len(taken.jobs) == TAKEN:
                found.append((time.perf_counter() - begun) * 1000)
            for job in taken.jobs:
                await stores.jobs.release(job.lease)
    finally:
        await stores.close()
    if len(found) < count / 2:
        raise RuntimeError(f"Of {count} takes only {len(found)} found {TAKEN} jobs that wait.")
    return found


async def waiting(redis_url: str, model: str) -> int:
    """How many jobs the store says wait."""
    stores = open_stores(BackendSettings(redis_url=redis_url))
    try:
        return (await stores.jobs.waiting(model))[0]
    finally:
        await stores.close()


def redis_mb(redis_url: str) -> float:
    """Memory of all that Redis holds, in MB (10^6 bytes)."""
    with Redis.from_url(redis_url) as client:
        return float(client.info("memory")["used_memory"]) / 1e6
