"""Keeps the leases of all jobs in hand alive, and stops the work on those that are void."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from contracts.errors import StoreUnavailable
from contracts.jobs import Lease
from contracts.ports import JobStore
from telemetry import metrics
from telemetry.logs import get_logger

log = get_logger(__name__)


class Leases:
    """The leases that this worker holds now."""

    def __init__(self, jobs: JobStore, every_s: float) -> None:
        self._jobs = jobs
        self._every_s = every_s
        self._held: dict[Lease, Callable[[], object]] = {}

    @contextmanager
    def hold(self, lease: Lease, on_void: Callable[[], object]) -> Iterator[None]:
        """Renew `lease` while inside; `on_void` is called once if it is void: canceled, expired, or taken over."""
        self._held[lease] = on_void
        try:
            yield
        finally:
            self._held.pop(lease, None)

    async def run(self) -> None:
        """Renews for ever. While the store is away nobody else can take the jobs either, so the work goes on."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                void = await self._jobs.renew(list(self._held))
            except StoreUnavailable as error:
                metrics.REPAIRED.labels("renew").inc()
                log.warning("renew_failed", code=error.code)
                continue
            for lease in void:
                on_void = self._held.pop(lease, None)
                if on_void is not None:
                    log.info("lease_void", job_id=lease.job_id, attempt=lease.attempt)
                    on_void()
