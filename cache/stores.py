"""All stores of a process behind one name, opened from its settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cache.blobs import DirectoryBlobStore
from cache.connection import connect, disconnect
from cache.credentials import RedisKeyStore
from cache.events import RedisJobEvents
from cache.hot import HotResults
from cache.idempotency import RedisIdempotencyStore
from cache.jobs import RedisJobStore
from cache.key_names import Layout
from cache.layout import LayoutGuard
from cache.models import RedisModelDirectory
from cache.probe import probe
from cache.quotas import RedisQuotaLedger
from cache.results import RedisResultCache
from cache.room import RedisRoomStore
from cache.s3 import S3BlobStore
from cache.usage import RedisUsageStore
from cache.webhooks import RedisWebhookStore
from contracts.blobs import BlobStore
from contracts.clock import SystemClock
from contracts.job_store import JobStore
from contracts.ports import JobEvents, ModelDirectory, ResultCache
from contracts.room import RoomStore
from contracts.settings import BackendSettings
from contracts.tenancy import IdempotencyStore, KeyStore, QuotaLedger
from contracts.usage import UsageStore
from contracts.webhooks import WebhookStore


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
    keys: KeyStore
    quotas: QuotaLedger
    idempotency: IdempotencyStore
    webhooks: WebhookStore
    room: RoomStore
    usage: UsageStore


def open_stores(settings: BackendSettings, *, hot_results: int = 0, hot_ttl_s: float = 0.0) -> Stores:
    """Stores on the Redis servers and the directory of the settings. Nothing is sent before the first use.

    With `hot_results` so many results are remembered in this process, each for `hot_ttl_s` seconds.
    """
    timeout_s = settings.redis_timeout_s
    limit = settings.redis_max_connections
    state = connect(settings.redis_url, timeout_s, limit)
    cached = (
        state if settings.cache_redis_url is None else connect(settings.cache_redis_url, timeout_s, limit)
    )
    blobs = open_blobs(settings)
    guard = LayoutGuard(state, settings.shards, timeout_s)
    events = RedisJobEvents(state, Layout(settings.shards), timeout_s)
    below = RedisResultCache(cached, settings.result_ttl_s, timeout_s)
    results: ResultCache = below
    hot = None
    if hot_results:
        results = hot = HotResults(
            below, cached, SystemClock(), limit=hot_results, ttl_s=hot_ttl_s, timeout_s=timeout_s
        )

    async def check() -> None:
        await probe(state, "job store", timeout_s)

    jobs = RedisJobStore(state, settings, SystemClock(), guard, below)

    async def close() -> None:
        await jobs.close()
        await events.close()
        if hot is not None:
            await hot.close()
        for client in {id(state): state, id(cached): cached}.values():
            await disconnect(client)
        if isinstance(blobs, S3BlobStore):
            await blobs.close()

    return Stores(
        jobs=jobs,
        events=events,
        results=results,
        models=RedisModelDirectory(state, settings.worker_ttl_s, settings.worker_grace_s, timeout_s),
        blobs=blobs,
        check=check,
        close=close,
        keys=RedisKeyStore(state, timeout_s),
        quotas=RedisQuotaLedger(state, settings.job_ttl_s, timeout_s),
        idempotency=RedisIdempotencyStore(state, timeout_s),
        webhooks=RedisWebhookStore(state, settings, SystemClock(), guard),
        room=RedisRoomStore(state, SystemClock(), timeout_s),
        usage=RedisUsageStore(state, timeout_s),
    )


def open_blobs(settings: BackendSettings) -> DirectoryBlobStore | S3BlobStore:
    """The pictures' store of the settings. Raises `SettingsError`."""
    if settings.blob_s3_bucket is None:
        return DirectoryBlobStore(settings.blob_dir, SystemClock())
    return S3BlobStore(
        settings.blob_s3_bucket, settings.blob_s3_prefix, settings.blob_s3_endpoint, SystemClock()
    )
