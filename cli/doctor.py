"""The checks of `darkroom doctor`, and what to do about each fault. Every check has a time limit."""

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

from backends.blobs import PRIVATE_FOLDERS
from backends.pubsub import subscribe
from backends.redis_client import connect, disconnect, store_errors
from cli.brokers import TLS_MEND, broker
from cli.findings import Finding, fault, ok, warn
from cli.policies import own_policy, policies
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
"""How far the clocks of Redis and this machine may differ."""
FILLING: Final = 0.8
"""The share of `maxmemory` above which there is a warning. The alert has the same bound."""
LEAST_FREE_BYTES: Final = 2**30
SAMPLE: Final = 50
"""How many of the newest images are checked against the hashes in their names."""


async def examine(settings: BackendSettings) -> AsyncIterator[Finding]:
    """Runs all checks, and yields the findings as they come."""
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
            models = [model.spec.name for model in served if model.workers]
            for model in served:
                count = len(model.workers)
                if count:
                    yield ok(f"model {model.spec.name}: {count} live worker{'s' * (count > 1)}")
                else:
                    yield warn(f"model {model.spec.name} has no live worker", "start a worker for it")
            own, bad = own_policy(settings.moderation)
            for finding in bad or policies(own, (worker for model in served for worker in model.workers)):
                yield finding
            if not served:
                yield warn("no worker has ever announced a model", "start a worker: python -m worker")
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
    Refusal.RIGHTS: "give the user the permissions that docs/security.md lists: commands, and the keys and channels darkroom:*",
    Refusal.REPLICA: "name the master in DARKROOM_REDIS_URL, or the sentinels that know it: redis+sentinel://",
    Refusal.DISK: "make room on the disk of Redis; its log says what failed",
    Refusal.REPLICAS: "bring its replicas back, or lower min-replicas-to-write",
}


def refused(error: StoreUnavailable) -> Finding:
    """Returns the fault of a Redis that cannot be used, and what to do about it."""
    cause = error.__cause__
    reason = refusal(cause)
    if reason is not None:
        return fault(f"Redis {reason}: {cause}", MENDS[reason])
    if (tls := tls_error(cause)) is not None:
        return fault(f"Redis' certificate, or the client's, is refused: {tls.reason or tls}", TLS_MEND)
    return fault(error.message, "start Redis, or correct DARKROOM_REDIS_URL and DARKROOM_CACHE_REDIS_URL")


def versions() -> Iterator[Finding]:
    """Yields the versions of Python and of the packages that the platform uses."""
    names = ("kombu", "amqp", "redis", "celery", "torch", "diffusers")
    installed = []
    for name in names:
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            installed.append(f"{name} not installed")
    yield ok(f"Python {platform.python_version()}, {', '.join(installed)}")


async def _info(client: Redis, timeout_s: float) -> dict[str, Any]:
    async with store_errors("Redis", timeout_s):
        info: dict[str, Any] = await client.info()
    # A cluster answers by node: the first stands for all.
    return (
        next(iter(info.values()))
        if info and all(isinstance(node, dict) and "redis_version" in node for node in info.values())
        else info
    )


async def state_redis(client: Redis, settings: BackendSettings) -> AsyncIterator[Finding]:
    """Checks the Redis that holds the jobs: version, eviction, persistence, clock, layout, counts.

    Raises `StoreUnavailable`.
    """
    timeout_s = settings.redis_timeout_s
    info = await _info(client, timeout_s)
    for finding in judge_state(info):
        yield finding
    async with store_errors("Redis", timeout_s):
        # Write, publish, subscribe: a read-only user fails here.
        # XX writes nothing, because the key does not exist.
        await client.set(NAME, "", xx=True)
        await client.publish(NAME, "")
    await (await subscribe(client, [NAME], "Redis", timeout_s)).aclose()  # type: ignore[no-untyped-call]
    yield ok("the state Redis accepts writes and subscriptions")
    before = time.time()
    async with store_errors("Redis", timeout_s):
        seconds, micros = await client.eval("return redis.call('TIME')", 1, "darkroom:{s0}:")
    offset_s = float(seconds) + float(micros) / 1e6 - (before + time.time()) / 2
    if abs(offset_s) > CLOCK_SLACK_S:
        yield warn(
            f"Redis' clock is {offset_s:+.1f} s off this machine's",
            "run NTP on both: jobs expire by Redis' clock, logs and the times in job ids use this machine's",
        )
    else:
        yield ok(f"clocks agree within {abs(offset_s) * 1000:.0f} ms")
    yield await layout(client, settings)
    balance = await counts(client, timeout_s)
    if balance.balanced:
        yield ok(f"{balance.recorded} jobs recorded, {balance.live} live, the rest ended")
    else:
        yield fault("the counts of jobs do not balance", "run `darkroom audit`")


async def layout(client: Redis, settings: BackendSettings) -> Finding:
    """Compares the number of shards in Redis with the setting. Raises `StoreUnavailable`."""
    try:
        stored = await stored_layout(client, settings.redis_timeout_s)
    except LayoutMismatch as error:
        return fault(str(error), "use the version of Darkroom that wrote this layout")
    if stored is not None and stored.shards != settings.shards:
        return fault(
            f"the jobs are in {stored.shards} shards, but {SETTING} is {settings.shards}",
            f"set {SETTING} to {stored.shards}, or stop all processes and run `darkroom migrate`",
        )
    return ok(f"the jobs are in {settings.shards} shard{'s' * (settings.shards > 1)}, as {SETTING} says")


def judge_state(info: dict[str, Any]) -> Iterator[Finding]:
    """Judges the answer to INFO of the Redis that holds the jobs. Pure."""
    server = product(info)
    if server.too_old:
        yield fault(f"{server} is too old", "use Redis 6.2 or newer, or Valkey 7.2 or newer")
    elif not server.tested:
        yield warn(f"{server} is not tested with Darkroom", "use Redis or Valkey")
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
            f"the state Redis is full ({memory.share:.0%} of maxmemory): no new job is accepted",
            "raise maxmemory, or lower DARKROOM_JOB_RETENTION_S",
        )
    elif memory.share > FILLING:
        yield warn(
            f"the state Redis is {memory.share:.0%} full",
            "raise maxmemory, or lower DARKROOM_JOB_RETENTION_S",
        )


async def cache_redis(client: Redis, *, apart: bool, settings: BackendSettings) -> AsyncIterator[Finding]:
    """Checks the Redis that holds cached results.

    `apart`: it is not the state Redis. Raises `StoreUnavailable`.
    """
    if not apart:
        yield ok("the state Redis holds the results")
        return
    info = await _info(client, settings.redis_timeout_s)
    if int(info.get("maxmemory", 0)) and info.get("maxmemory_policy") == "noeviction":
        yield warn(
            "the cache Redis will fill up, because it evicts nothing", "set maxmemory-policy allkeys-lru"
        )
    else:
        yield ok(f"cache: {product(info)}, {info.get('maxmemory_policy')}")


async def pictures(settings: BackendSettings) -> AsyncIterator[Finding]:
    """Checks the image store: writable, free space, and the newest images against the hashes in their names."""
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
        yield fault(error.message, "use a larger disk, or lower DARKROOM_BLOB_RETENTION_S")
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
            f"{len(damaged)} pictures are damaged (their bytes do not match the hash in their name): {damaged[0]} ...",
            "delete them; check the disk",
        )
    else:
        yield ok("the newest pictures are intact")


def _newest(root: Path) -> list[Path]:
    folders = (root, *(root / private for private in PRIVATE_FOLDERS))
    files = (path for folder in folders for path in folder.glob("??/[0-9a-f]*"))
    paths = sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)
    return paths[:SAMPLE]


def _intact(path: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
