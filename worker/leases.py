"""Renews the leases of all active jobs, and stops the work on jobs whose lease is void."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Final

from contracts.errors import StoreUnavailable
from contracts.jobs import Lease
from contracts.ports.job_events import JobEvents
from contracts.ports.job_store import JobStore
from telemetry import metrics
from telemetry.logs import get_logger

COME_BACK_S: Final = 1.0
"""Pause before a lost channel of cancellations is opened again."""

log = get_logger(__name__)


class Leases:
    """The leases that this worker holds. They are renewed every `every_s` seconds."""

    def __init__(self, jobs: JobStore, every_s: float) -> None:
        self._jobs = jobs
        self._every_s = every_s
        self._held: dict[Lease, Callable[[], object]] = {}
        self._renew_now = asyncio.Event()

    @contextmanager
    def hold(self, lease: Lease, on_void: Callable[[], object]) -> Iterator[None]:
        """Renew `lease` while inside.

        `on_void` is called once if the lease is void: its job was canceled, has expired, or was
        taken over.
        """
        self._held[lease] = on_void
        try:
            yield
        finally:
            self._held.pop(lease, None)

    async def run(self) -> None:
        """Renew for ever.

        Work goes on while the store is away, because no other worker can take the jobs either.
        """
        while True:
            await self._wait_due()
            try:
                void = await self._jobs.renew(list(self._held))
                self._end_void(void)
            except StoreUnavailable as error:
                metrics.REPAIRED.labels("renew").inc()
                log.warning("renew_failed", code=error.code)
            except Exception as error:  # noqa: BLE001 - the other leases must be kept
                metrics.REPAIRED.labels("renew").inc()
                log.error("renew_broken", error=type(error).__name__)

    async def watch_cancellations(self, events: JobEvents, worker_id: str) -> None:
        """Renew at once whenever a job of this worker is canceled, for ever.

        A canceled job is then found void before the next regular renewal.
        """
        while True:
            async with aclosing(events.canceled(worker_id)) as canceled:
                async for _ in canceled:
                    self._renew_now.set()
            await asyncio.sleep(COME_BACK_S)

    def _end_void(self, void: Sequence[Lease]) -> None:
        for lease in void:
            on_void = self._held.pop(lease, None)
            if on_void is not None:
                log.info("lease_void", job_id=lease.job_id, attempt=lease.attempt)
                on_void()

    async def _wait_due(self) -> None:
        """Returns when leases should be renewed."""
        try:
            async with asyncio.timeout(self._every_s):
                await self._renew_now.wait()
        except TimeoutError:
            return
        finally:
            self._renew_now.clear()
