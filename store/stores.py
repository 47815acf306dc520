"""All stores of a process, opened from its settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from backends.blobs import DirectoryBlobStore
from backends.redis_client import connect, disconnect
from backends.s3 import S3BlobStore
from cache.local_results import LocalResultCache
from cache.results import RedisResultCache
from cache.similar_prompts import RedisSimilarPrompts
from contracts.ports.blob_store import BlobStore
from contracts.ports.click_store import ClickStore
from contracts.ports.idempotency_store import IdempotencyStore
from contracts.ports.import_store import ImportStore
from contracts.ports.job_events import JobEvents
from contracts.ports.job_store import JobStore
from contracts.ports.key_store import KeyStore
from contracts.ports.look_outbox import LookOutbox
from contracts.ports.memory_use_store import MemoryUseStore
from contracts.ports.model_directory import ModelDirectory
from contracts.ports.picture_outbox import PictureOutbox
from contracts.ports.publications import Publications
from contracts.ports.quota_ledger import QuotaLedger
from contracts.ports.rebuild_store import RebuildStore
from contracts.ports.refunds import Refunds
from contracts.ports.result_cache import ResultCache
from contracts.ports.review_store import ReviewStore
from contracts.ports.scan_store import ScanStore
from contracts.ports.session_store import SessionStore
from contracts.ports.signed_names import SignedNames
from contracts.ports.usage_store import UsageStore
from contracts.ports.webhook_store import WebhookStore
from contracts.settings import BackendSettings
from runtime.clock import SystemClock
from store.api_keys import RedisApiKeyStore
from store.clicks import RedisClickStore
from store.events import RedisJobEvents
from store.idempotency import RedisIdempotencyStore
from store.imports import RedisImportStore
from store.jobs import RedisJobStore
from store.key_names import Layout
from store.layout import LayoutGuard
from store.memory_use import RedisMemoryUseStore
from store.model_directory import RedisModelDirectory
from store.moderation_log import ModerationLog
from store.pictures import RedisPictureOutbox
from store.probe import probe
from store.publications import RedisPublications
from store.quotas import RedisQuotaLedger
from store.rebuilds import RedisRebuildStore
from store.refunds import RedisRefunds
from store.reviews import RedisReviewStore
from store.scans import RedisScanStore
from store.second_looks import RedisLookOutbox
from store.sessions import RedisSessionStore
from store.signed_names import RedisSignedNames
from store.usage import RedisUsageStore
from store.webhooks import RedisWebhookStore


@dataclass(frozen=True, slots=True)
class Stores:
    """The open stores of one process. `blobs` holds the images, `pictures` what the search index is
    owed, `imports` what tenants have brought in, `reviews` what people must look at, `looks` what a
    model looks at before, `scans` how far a policy was applied to what is stored, `sessions` who is
    signed in; `room` counts the memory that records take."""

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
    pictures: PictureOutbox
    imports: ImportStore
    reviews: ReviewStore
    looks: LookOutbox
    moderation_log: ModerationLog
    scans: ScanStore
    publications: Publications
    refunds: Refunds
    rebuilds: RebuildStore
    signed_names: SignedNames
    sessions: SessionStore
    clicks: ClickStore
    similar: RedisSimilarPrompts
    room: MemoryUseStore
    usage: UsageStore


def open_stores(
    settings: BackendSettings, *, hot_results: int = 0, hot_ttl_s: float = 0.0, log_key: str = ""
) -> Stores:
    """The stores on the Redis servers and the blob store of the settings. Nothing is sent before
    the first use.

    With `hot_results` above 0 this process remembers so many results, each for `hot_ttl_s` seconds.
    `log_key` signs the audit trail of moderation; empty: it is not signed.
    Raises `SettingsError`.
    """
    timeout_s = settings.redis_timeout_s
    limit = settings.redis_max_connections
    state = connect(settings.redis_url, timeout_s, limit)
    cache_client = (
        state if settings.cache_redis_url is None else connect(settings.cache_redis_url, timeout_s, limit)
    )
    blobs = open_blobs(settings)
    guard = LayoutGuard(state, settings.shards, timeout_s)
    events = RedisJobEvents(state, Layout(settings.shards), timeout_s)
    redis_results = RedisResultCache(cache_client, settings.result_ttl_s, timeout_s)
    results: ResultCache = redis_results
    local_results = None
    if hot_results:
        results = local_results = LocalResultCache(
            redis_results,
            cache_client,
            SystemClock(),
            limit=hot_results,
            ttl_s=hot_ttl_s,
            timeout_s=timeout_s,
        )

    async def check() -> None:
        await probe(state, "job store", timeout_s)

    pictures = RedisPictureOutbox(state, settings, guard)
    quotas = RedisQuotaLedger(state, settings.job_ttl_s, timeout_s)
    jobs = RedisJobStore(state, settings, SystemClock(), guard, redis_results)

    async def close() -> None:
        await jobs.close()
        await events.close()
        if local_results is not None:
            await local_results.close()
        for client in {id(state): state, id(cache_client): cache_client}.values():
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
        keys=RedisApiKeyStore(state, timeout_s),
        quotas=quotas,
        refunds=RedisRefunds(state, settings, guard, quotas),
        idempotency=RedisIdempotencyStore(state, timeout_s),
        webhooks=RedisWebhookStore(state, settings, SystemClock(), guard),
        pictures=pictures,
        imports=RedisImportStore(state, settings, guard, pictures),
        reviews=RedisReviewStore(state, settings, guard),
        looks=RedisLookOutbox(state, settings, guard),
        moderation_log=ModerationLog(state, timeout_s, log_key),
        scans=RedisScanStore(state, cache_client, settings, guard),
        publications=RedisPublications(state, timeout_s),
        rebuilds=RedisRebuildStore(state, timeout_s),
        signed_names=RedisSignedNames(state, timeout_s, settings.blob_retention_s),
        sessions=RedisSessionStore(state, timeout_s),
        similar=RedisSimilarPrompts(cache_client, settings.result_ttl_s, timeout_s),
        clicks=RedisClickStore(state, timeout_s),
        room=RedisMemoryUseStore(state, SystemClock(), timeout_s),
        usage=RedisUsageStore(state, timeout_s),
    )


def open_blobs(settings: BackendSettings) -> DirectoryBlobStore | S3BlobStore:
    """The blob store of the settings. Raises `SettingsError`."""
    if settings.blob_s3_bucket is None:
        return DirectoryBlobStore(settings.blob_dir, SystemClock())
    return S3BlobStore(
        settings.blob_s3_bucket, settings.blob_s3_prefix, settings.blob_s3_endpoint, SystemClock()
    )
