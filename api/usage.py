"""Who loads the platform: counts by tenant in this process, added to the store's every few seconds, and metrics of the largest."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Final

from contracts.clock import Clock
from contracts.errors import StoreUnavailable
from contracts.jobs import CacheStatus
from contracts.usage import UsageStore
from telemetry import metrics
from telemetry.logs import get_logger
from telemetry.tenants import TenantMetrics

FLUSH_S: Final = 5.0
MAX_UNSTORED: Final = 100_000
"""Counts that wait for a store that is away; more are dropped."""

log = get_logger(__name__)


class Usage:
    """Counts jobs as they are accepted and refused. `run` as a task, and `flush` before the process ends."""

    def __init__(self, store: UsageStore, metrics_tenants: int, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._metrics = TenantMetrics(metrics_tenants)
        self._days: dict[str, Counter[tuple[str, str]]] = {}

    def accepted(self, tenant: str, cache: CacheStatus, images: int, steps: int) -> None:
        """A job of `images` images was accepted, and `steps` denoising steps are to be done for it."""
        counts = self._today()
        counts[tenant, "jobs"] += 1
        counts[tenant, "images"] += images
        if cache is CacheStatus.HIT:
            counts[tenant, "hits"] += 1
        elif cache is CacheStatus.JOINED:
            counts[tenant, "joined"] += 1
        elif steps:
            counts[tenant, "steps"] += steps
        self._metrics.accepted(tenant, steps, self._clock.monotonic())

    def refused(self, tenant: str) -> None:
        """A job was refused."""
        self._today()[tenant, "refused"] += 1
        self._metrics.refused(tenant, self._clock.monotonic())

    async def run(self) -> None:
        """Flush for ever."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Add what has been counted to the store's counts. What it does not take is kept for the next time."""
        for day in list(self._days):
            counts, stored = self._days.pop(day), False
            try:
                await self._store.add(day, counts)
                stored = True
            except StoreUnavailable as error:
                metrics.REPAIRED.labels("usage").inc()
                log.warning("usage_not_stored", code=error.code)
            finally:
                # It may have been added all the same: then it counts twice.
                if not stored:
                    self._keep(day, counts)

    def _keep(self, day: str, counts: Counter[tuple[str, str]]) -> None:
        now = self._days.setdefault(day, Counter())
        if len(now) + len(counts) <= MAX_UNSTORED:
            now.update(counts)

    def _today(self) -> Counter[tuple[str, str]]:
        return self._days.setdefault(day_of(self._clock.now()), Counter())


def day_of(now: float) -> str:
    """The day of UTC of a Unix time, `2026-11-30`."""
    return time.strftime("%Y-%m-%d", time.gmtime(now))
