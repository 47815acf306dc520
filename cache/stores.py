"""All stores of a process behind one name, opened from its settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cache.blobs import DirectoryBlobStore
from cache.connection import connect, reaching
from cache.events import RedisJobEvents
from cache.jobs import RedisJobStore
from cache.models import RedisModelDirectory
from cache.results import RedisResultCache
from contracts.clock import SystemClock
from contracts.ports import BlobStore, JobEvents, JobStore, ModelDirectory, ResultCache
from contracts.settings import BackendSettings


@dataclass(frozen=True, slots=True)
class Stores:
    jobs: JobStore
    events: JobEvents
    results: ResultCache
    models: ModelDirectory
    blobs: BlobStore
    check: Callable[[], Awaitable[None]]
    """Raises `StoreUnavailable` unless the job store answers now."""
    close: Callable[[], Awaitable[None]]


def open_stores(settings: BackendSettings) -> Stores:
    """Stores on the Redis servers and the directory of the settings. Nothing is sent before the first use."""
    timeout_s = settings.redis_timeout_s
    state = connect(settings.redis_url, timeout_s)
    cached = state if settings.cache_redis_url is None else connect(settings.cache_redis_url, timeout_s)
    events = RedisJobEvents(state, timeout_s)

    async def check() -> None:
        async with reaching("job store", timeout_s):
            await state.ping()

    async def close() -> None:
        await events.close()
        for client in {id(state): state, id(cached): cached}.values():
            await client.aclose()

    return Stores(
        jobs=RedisJobStore(state, settings, SystemClock()),
        events=events,
        results=RedisResultCache(cached, settings.result_ttl_s, timeout_s),
        models=RedisModelDirectory(state, settings.worker_ttl_s, timeout_s),
        blobs=DirectoryBlobStore(settings.blob_dir),
        check=check,
        close=close,
    )
