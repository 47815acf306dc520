"""What a platform needs, checked one by one, and how to mend what is wrong. Every check is bounded in time."""

from __future__ import annotations

import hashlib
import platform
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from backends.blobs import INPUTS
from backends.pubsub import subscribe
from backends.redis_client import connect, disconnect, store_errors
from cli.brokers import TLS_MEND, broker
from cli.findings import Finding, fault, ok, warn
from cli.products import product
from contracts.errors import BlobStoreFull, ImageNotFound, SettingsError, StoreUnavailable
from contracts.settings import BackendSettings
from store.audit import counts
from store.layout import SETTING, LayoutMismatch, stored_layout
from store.memory_use import memory_in
from store.model_directory import RedisModelDirectory
from store.probe import NAME, Refusal, refusal, tls_error
from store.stores import open_blobs

CLOCK_SLACK_S: Final = 2.0
FILLING: Final = 0.8
"""The share of its `maxmemory` from which on a Redis is warned of, as by the alert."""
LEAST_FREE_BYTES: Final = 2**30
SAMPLE: Final = 50
"""Pictures whose bytes are checked against their names."""


async def examine(settings: BackendSettings) -> AsyncIterator[Finding]:
    """All findings, as they come."""
    for finding in versions():
        yield finding
    state = connect(settings.redis_url, settings.redis_timeout_s)
    cache_url = settings.cache_redis_url or settings.redis_url
    cached = connect(cache_url, settings.redis_timeout_s)
    try:
        models: list[str] = []
        try:
            async for finding in state_redis(state, settings):
                yield finding
            announced = await RedisModelDirectory(
                state, settings.worker_ttl_s, settings.worker_grace_s, settings.redis_timeout_s
            ).models()
            served = announced.models
            models = [each.spec.name for each in served if each.workers]
            for each in served:
                count = len(each.workers)
                if count:
                    yield ok(f"model {each.spec.name}: {count} live worker{'s' * (count > 1)}")
                else:
                    yield warn(f"model {each.spec.name} has no live worker", "start a worker for it")
            if not served:
                yield warn("no model has ever been announced", "start a worker: python -m worker")
            async for finding in cache_redis(
                cached, apart=settings.cache_redis_url is not None, settings=settings
            ):
                yield finding
        except StoreUnavailable as error:
            yield refused(error)
        for finding in broker(settings, models):
            yield finding
        async for finding in pictures(settings):
            yield finding
    finally:
        await disconnect(state)
        await disconnect(cached)


MENDS: Final = {
    Refusal.CREDENTIALS: "correct user and password in DARKROOM_REDIS_URL or DARKROOM_CACHE_REDIS_URL",
    Refusal.RIGHTS: "give the user what docs/security.md lists: commands, the keys and the channels darkroom:*",
    Refusal.REPLICA: "name the master in DARKROOM_REDIS_URL, or the sentinels, which know it: redis+sentinel://",
    Refusal.DISK: "make room on the disk of Redis; its log says what failed",
    Refusal.REPLICAS: "bring its replicas back, or lower min-replicas-to-write",
}


def refused(error: StoreUnavailable) -> Finding:
    """What is wrong with a Redis that cannot be used, and what to do about it."""
    cause = error.__cause__
    found = refusal(cause)
    if found is not None:
        return fault(f"Redis {found}: {cause}", MENDS[found])
    if (tls := tls_error(cause)) is not None:
        return fault(f"Redis' certificate, or ours, is refused: {tls.reason or tls}", TLS_MEND)
    return fault(error.message, "start Redis, or correct DARKROOM_REDIS_URL and DARKROOM_CACHE_REDIS_URL")


def versions() -> Iterator[Finding]:
    names = ("kombu", "amqp", "redis", "celery", "torch", "diffusers")
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    yield ok(f"Python {platform.python_version()}, {', '.join(found)}")


async def _info(client: Redis, timeout_s: float) -> dict[str, Any]:
    async with store_errors("Redis", timeout_s):
        told: dict[str, Any] = await client.info()
    # A cluster answers by node: the first stands for all.
    return (
        next(iter(told.values()))
        if told and all(isinstance(v, dict) and "redis_version" in v for v in told.values())
        else told
    )


async def state_redis(client: Redis, settings: BackendSettings) -> AsyncIterator[Finding]:
    """Version, eviction, persistence, clock and books of the Redis that holds the jobs. Raises `StoreUnavailable`."""
    timeout_s = settings.redis_timeout_s
    info = await _info(client, timeout_s)
    for finding in judge_state(info):
        yield finding
    async with store_errors("Redis", timeout_s):
        # What no reader needs: to write, to speak on a channel, to hear it. Nothing is written, for the key is not there.
        await client.set(NAME, "", xx=True)
        await client.publish(NAME, "")
    await (await subscribe(client, [NAME], "Redis", timeout_s)).aclose()  # type: ignore[no-untyped-call]
    yield ok("the state Redis can be written to, and its channels be heard")
    before = time.time()
    async with store_errors("Redis", timeout_s):
        seconds, micros = await client.eval("return redis.call('TIME')", 1, "darkroom:{s0}:")
    off = float(seconds) + float(micros) / 1e6 - (before + time.time()) / 2
    if abs(off) > CLOCK_SLACK_S:
        yield warn(
            f"Redis' clock is {off:+.1f} s off this machine's",
            "run NTP on both: jobs live by Redis' clock, logs and `created_at` of ids by this one's",
        )
    else:
        yield ok(f"clocks agree within {abs(off) * 1000:.0f} ms")
    yield await layout(client, settings)
    balance = await counts(client, timeout_s)
    if balance.balanced:
        yield ok(f"{balance.recorded} jobs recorded, {balance.live} live, the rest ended")
    else:
        yield fault("the books of the jobs do not balance", "run `darkroom audit`")


async def layout(client: Redis, settings: BackendSettings) -> Finding:
    """Whether the jobs lie where the settings say. Raises `StoreUnavailable`."""
    try:
        stored = await stored_layout(client, settings.redis_timeout_s)
    except LayoutMismatch as error:
        return fault(str(error), "use the version of Darkroom that wrote it")
    if stored is not None and stored.shards != settings.shards:
        return fault(
            f"the jobs lie in {stored.shards} shards, and {SETTING} is {settings.shards}",
            f"set {SETTING} to {stored.shards}, or stop all processes and run `darkroom migrate`",
        )
    return ok(f"the jobs lie in {settings.shards} shard{'s' * (settings.shards > 1)}, as {SETTING} says")


def judge_state(info: dict[str, Any]) -> Iterator[Finding]:
    """What the server says of itself, as the holder of the jobs."""
    server = product(info)
    if server.too_old:
        yield fault(f"{server} is too old", "use Redis 6.2 or newer, or Valkey 7.2 or newer")
    elif not server.tested:
        yield warn(f"{server} is not tested as the holder of jobs", "use Redis or Valkey")
    else:
        yield ok(str(server))
    if info.get("role") in ("slave", "replica"):
        yield fault(f"the state Redis {Refusal.REPLICA}", MENDS[Refusal.REPLICA])
    if info.get("maxmemory_policy") != "noeviction":
        yield fault(
            f"the state Redis evicts ({info.get('maxmemory_policy')}): jobs would vanish",
            "set maxmemory-policy noeviction, and keep the cache on another server (DARKROOM_CACHE_REDIS_URL)",
        )
    else:
        yield ok("the state Redis evicts nothing")
    if not int(info.get("aof_enabled", 0)):
        yield fault(
            "the state Redis keeps no append-only file: a restart forgets jobs",
            "set appendonly yes and appendfsync everysec",
        )
    elif info.get("aof_last_write_status") != "ok":
        yield fault("the append-only file cannot be written", "look at Redis' log and disk")
    else:
        yield ok("the state Redis keeps an append-only file")
    memory = memory_in(info)
    if memory.share >= 1:
        yield fault(
            f"the state Redis is full ({memory.share:.0%} of maxmemory): nothing new is taken",
            "raise maxmemory, or lower DARKROOM_JOB_RETENTION_S",
        )
    elif memory.share > FILLING:
        yield warn(
            f"the state Redis is {memory.share:.0%} full",
            "raise maxmemory, or lower DARKROOM_JOB_RETENTION_S",
        )


async def cache_redis(client: Redis, *, apart: bool, settings: BackendSettings) -> AsyncIterator[Finding]:
    """The Redis that holds results. Raises `StoreUnavailable`."""
    if not apart:
        yield ok("results lie on the state Redis")
        return
    info = await _info(client, settings.redis_timeout_s)
    if int(info.get("maxmemory", 0)) and info.get("maxmemory_policy") == "noeviction":
        yield warn("the cache Redis will be full and evict nothing", "set maxmemory-policy allkeys-lru")
    else:
        yield ok(f"cache: {product(info)}, {info.get('maxmemory_policy')}")


async def pictures(settings: BackendSettings) -> AsyncIterator[Finding]:
    """The pictures' store: writable, with room, and a sample whose bytes are what their names say."""
    try:
        blobs = open_blobs(settings)
    except SettingsError as error:
        yield fault(str(error), "install the extra, or unset DARKROOM_BLOB_S3_BUCKET")
        return
    try:
        name = await blobs.put(b"darkroom doctor", "png")
        await blobs.get(name)
        yield ok(f"pictures can be written and read ({settings.blob_s3_bucket or settings.blob_dir})")
    except BlobStoreFull as error:
        yield fault(error.message, "make room: a larger disk, or a lower DARKROOM_BLOB_RETENTION_S")
        return
    except (StoreUnavailable, ImageNotFound) as error:
        yield fault(error.message, "make the directory writable for API and workers, or the bucket reachable")
        return
    if settings.blob_s3_bucket is not None:
        return
    free = shutil.disk_usage(settings.blob_dir).free
    if free < LEAST_FREE_BYTES:
        yield warn(
            f"{free / 2**20:.0f} MiB are free for pictures",
            "lower DARKROOM_BLOB_RETENTION_S, or set DARKROOM_BLOB_MAX_BYTES",
        )
    damaged = [path.name for path in _newest(settings.blob_dir) if not _intact(path)]
    if damaged:
        yield fault(
            f"{len(damaged)} pictures are not what their names say: {damaged[0]} ...",
            "delete them; check the disk",
        )
    else:
        yield ok("pictures are what their names say")


def _newest(root: Path) -> list[Path]:
    files = (path for folder in (root, root / INPUTS) for path in folder.glob("??/[0-9a-f]*"))
    paths = sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)
    return paths[:SAMPLE]


def _intact(path: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
