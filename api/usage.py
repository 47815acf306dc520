"""Usage by tenant: counts in this process, added to the store's every few seconds, and metrics of
the largest tenants."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Final

from contracts.errors import StoreUnavailable
from contracts.jobs import CacheStatus
from contracts.ports.clock import Clock
from contracts.ports.usage_store import UsageStore
from telemetry import metrics
from telemetry.logs import get_logger
from telemetry.tenants import TenantMetrics

FLUSH_S: Final = 5.0
"""Seconds between two flushes."""
MAX_UNSTORED: Final = 100_000
"""The most counts of a day that wait for an unavailable store. Further ones are dropped."""

log = get_logger(__name__)


class Usage:
    """Counts accepted and refused jobs.

    `run` it as a task, and `flush` before the process ends. `metrics_tenants` is how many tenants
    get metrics.
    """

    def __init__(self, store: UsageStore, metrics_tenants: int, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._metrics = TenantMetrics(metrics_tenants)
        self._days: dict[str, Counter[tuple[str, str]]] = {}

    def accepted(self, tenant: str, cache: CacheStatus, images: int, steps: int) -> None:
        """Count an accepted job of `images` images, for which `steps` denoising steps are to be computed."""
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
        """Count a refused job."""
        self._today()[tenant, "refused"] += 1
        self._metrics.refused(tenant, self._clock.monotonic())

    async def run(self) -> None:
        """Flush every few seconds until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Add the counts to the store's. Those that it does not take are kept for the next time."""
        for day in list(self._days):
            counts, stored = self._days.pop(day), False
            try:
                await self._store.add(day, counts)
                stored = True
            except StoreUnavailable as error:
                metrics.REPAIRED.labels("usage").inc()
                log.warning("usage_not_stored", code=error.code)
            finally:
                # The store may have added them all the same. They then count twice.
                if not stored:
                    self._keep(day, counts)

    def _keep(self, day: str, counts: Counter[tuple[str, str]]) -> None:
        now = self._days.setdefault(day, Counter())
        if len(now) + len(counts) <= MAX_UNSTORED:
            now.update(counts)

    def _today(self) -> Counter[tuple[str, str]]:
        return self._days.setdefault(day_of(self._clock.now()), Counter())


def day_of(now: float) -> str:
    """The UTC day of the Unix time `now`, such as `2026-11-30`."""
    return time.strftime("%Y-%m-%d", time.gmtime(now))
