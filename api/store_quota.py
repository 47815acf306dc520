"""Whether the store has room for one more job or import, and for one more of this tenant.

A submit makes no call for this. Once a second each process adds what it has recorded to the store's
counts, and reads the counts of all processes and how full Redis is. A tenant may therefore exceed
its bound by what is recorded in a second (docs/adr/0037-room-in-the-store.md).
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final, Literal

from contracts.errors import QuotaExceeded, StoreFull, StoreUnavailable
from contracts.jobs import CacheStatus, Job, NewJob
from contracts.memory_use import Lapses, Memory
from contracts.pictures import PictureRecord
from contracts.ports.clock import Clock
from contracts.ports.memory_use_store import MemoryUseStore
from contracts.requests import GenerationRequest
from contracts.settings import ApiSettings
from store.idempotency import KEPT_S
from store.packed_request import PACK_FROM_CHARS, pack
from telemetry import metrics

EVERY_S: Final = 1.0
"""Seconds between two ticks."""
LIMIT: Final = "kept_bytes"
"""The name of this limit in errors and metrics."""
TENANT_SHARE: Final = 0.5
"""The share of Redis' `maxmemory` that a tenant may use, unless `tenant_store_bytes` is set."""
PARTS: Final = 24
"""The retention is counted in this many parts. Bytes lapse at the end of a part."""
WEBHOOK_KEEP_S: Final = 4 * 86_400.0
"""How long a record with a webhook stays, in seconds (`HOOK_KEEP_S` of lua/prelude.lua)."""

# Measured by tests/store/test_memory_per_job.py, in bytes.
RECORD: Final = {CacheStatus.HIT: 1150, CacheStatus.JOINED: 1150, CacheStatus.MISS: 1850}
"""A record without its request and images. For a computed job, this includes its entry in the
result cache."""
REQUEST: Final = 340
"""A request without its texts."""
PAIR: Final = 6
"""The JSON around one pair of metadata."""
PICTURE: Final = 330
"""One image in a result."""
IDEMPOTENCY_KEY: Final = 570
"""An idempotency key that holds the id of its job."""
RESERVATION: Final = 1100
"""An idempotency key that still holds the whole job, without the job's texts."""
IMPORT: Final = 3000
"""The record of an imported image with an embedding of 512 dimensions, without its texts; and what its file
is known by."""
WEBHOOK: Final = 720
"""A webhook of a job, without its URL."""


class Room:
    """Knows how full the store is, and what it holds of each tenant. `run` it as a task."""

    def __init__(self, store: MemoryUseStore, settings: ApiSettings, clock: Clock) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._part_s = settings.job_retention_s / PARTS
        self._requested: set[str] = set()
        self._new: dict[str, dict[int, int]] = {}
        """What this process has recorded since the last tick: by tenant, bytes by the time at which
        they lapse."""
        self._counting: dict[str, dict[int, int]] = {}
        """The same, while it is being added to the store's counts."""
        self._known: dict[str, Lapses] = {}
        """The store's counts of the tenants that this process has seen lately."""
        self.memory: Memory | None = None
        """The memory of the fullest server; None: not known yet."""
        self._limit_bytes = settings.tenant_store_bytes

    def require(self, tenant: str) -> None:
        """Raises `StoreFull` if the store is nearly full, and `QuotaExceeded` if the jobs of
        `tenant` take all its room."""
        if self.memory is not None and self.memory.share >= self._settings.store_full_share:
            raise StoreFull("The store of jobs is nearly full; what it has taken will end.")
        self._requested.add(tenant)
        limit = self._limit_bytes
        if limit is None:
            return
        now = self._clock.now()
        if self._kept(tenant, now) < limit:
            return
        metrics.QUOTA_REFUSED.labels(LIMIT).inc()
        raise QuotaExceeded(
            f"The jobs of the last {_hours(self._settings.job_retention_s)} take all the room that a tenant's may, "
            f"{limit / 1e6:.1f} MB.",
            details={"limit": LIMIT, "value": limit},
            retry_after_s=max(1.0, min(self._lapses(tenant, now), default=now) - now),
        )

    def note(self, job: Job, *, repeats: bool) -> None:
        """Count `job`, which was recorded; with `repeats` also its idempotency key."""
        settings = self._settings
        kept_s = (
            settings.job_retention_s if job.webhook is None else max(settings.job_retention_s, WEBHOOK_KEEP_S)
        )
        until = (job.created_at if job.status.terminal else job.deadline) + kept_s
        self._count(job.tenant, until, kept_bytes(job) + (IDEMPOTENCY_KEY if repeats else 0))

    def imported(self, record: PictureRecord) -> None:
        """Count an imported image, which was recorded."""
        size = IMPORT + len(record.prompt.encode()) + len(record.origin.encode())
        self._count(record.scope, record.expires_at, size)

    def reserved(self, new: NewJob, sign: Literal[1, -1]) -> None:
        """Count an idempotency key that holds the whole job `new`.

        With `sign` -1 it holds only the id again. A key whose job is refused holds the whole job
        for a day.
        """
        size = RESERVATION + _text_bytes(new.request)
        self._count(new.tenant, self._clock.now() + KEPT_S, sign * size)

    def _count(self, tenant: str, until: float, size: int) -> None:
        lapse = math.ceil(math.ceil(until / self._part_s) * self._part_s)
        self._new.setdefault(tenant, defaultdict(int))[lapse] += size

    async def tick(self) -> None:
        """Add this process's counts to the store's, and read them.

        Raises `StoreUnavailable`; the next tick then counts what was not counted.
        """
        servers = await self._store.memory()
        self.memory = max(servers, key=lambda server: server.share, default=None)
        if self._settings.tenant_store_bytes is None:
            total = sum(server.limit_bytes for server in servers)
            limited = servers and all(server.limit_bytes for server in servers)
            self._limit_bytes = int(total * TENANT_SHARE) if limited else None
        requested, self._requested = self._requested, set()
        new, self._new = self._new, {}
        self._counting = new
        tenants = {tenant: new.get(tenant, {}) for tenant in requested | set(new)}
        try:
            counted = await self._store.add(tenants) if tenants else {}
            self._learn(counted)
        except StoreUnavailable:
            self._again(new)
            raise
        finally:
            self._counting = {}

    def _learn(self, counted: Mapping[str, Lapses]) -> None:
        now = self._clock.now()
        quiet = {name: lapses for name, lapses in self._known.items() if name not in counted}
        self._known = {
            **{name: lapses for name, lapses in quiet.items() if any(time > now for time in lapses)},
            **counted,
        }

    async def run(self) -> None:
        """Tick every second until cancelled."""
        while True:
            try:
                await self.tick()
            except StoreUnavailable:
                metrics.REPAIRED.labels("room").inc()
            await asyncio.sleep(EVERY_S)

    async def close(self) -> None:
        """Count what is left, if the store is available. To be called after `run` was cancelled."""
        with suppress(StoreUnavailable):
            await self.tick()

    def _again(self, new: dict[str, dict[int, int]]) -> None:
        for tenant, lapses in new.items():
            mine = self._new.setdefault(tenant, defaultdict(int))
            for time, size in lapses.items():
                mine[time] += size

    def _kept(self, tenant: str, now: float) -> int:
        return sum(size for lapses in self._of(tenant) for time, size in lapses.items() if time > now)

    def _lapses(self, tenant: str, now: float) -> Iterator[int]:
        """The times at which bytes of the tenant lapse."""
        return (time for lapses in self._of(tenant) for time in lapses if time > now)

    def _of(self, tenant: str) -> list[Lapses]:
        return [part[tenant] for part in (self._known, self._counting, self._new) if tenant in part]


def kept_bytes(job: Job) -> int:
    """About how many bytes of Redis the record of `job` takes. Pure."""
    images = PICTURE * job.request.num_images * (2 if job.cache is CacheStatus.MISS else 1)
    hook = 0 if job.webhook is None else WEBHOOK + len(job.webhook.url)
    return RECORD[job.cache] + _request_bytes(job.request) + images + hook


def _request_bytes(request: GenerationRequest) -> int:
    size = REQUEST + _text_bytes(request)
    return size if size < PACK_FROM_CHARS else len(pack(request))


def _text_bytes(request: GenerationRequest) -> int:
    pairs = sum(PAIR + len(key.encode()) + len(value.encode()) for key, value in request.metadata.items())
    return len(request.prompt.encode()) + len(request.negative_prompt.encode()) + pairs


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:g} hours"
