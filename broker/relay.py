"""The relay: publishes what a crash, a lost confirm or a promotion has left in the outbox (the transactional outbox of
Richardson, "Microservices Patterns", chapter 3). Every API process runs one; the store hands each message to one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from contracts.errors import UnavailableError
from contracts.ids import SHARDS
from contracts.jobs import JobMessage
from contracts.ports import JobStore, Publisher
from telemetry import metrics
from telemetry.logs import get_logger

BATCH: Final = 100
"""Jobs of one kind from one shard in one tick."""

log = get_logger(__name__)


async def publish_all(
    jobs: JobStore, publisher: Publisher, messages: Iterable[JobMessage], reason: str
) -> None:
    """Publish and confirm each. What fails stays in the outbox and is tried again by a later tick."""
    await asyncio.gather(*(_publish(jobs, publisher, message, reason) for message in messages))


async def _publish(jobs: JobStore, publisher: Publisher, message: JobMessage, reason: str) -> None:
    try:
        await publisher.publish(message)
        await jobs.confirm(message.job_id)
    except UnavailableError as error:
        metrics.REPAIRED.labels("relay").inc()
        log.warning("relay_failed", job_id=message.job_id, reason=reason, code=error.code)
    else:
        metrics.RELAYED.labels(reason).inc()


class Relay:
    """Sweeps every shard each `interval_s` seconds: ends what is past its deadline, publishes what has lingered."""

    def __init__(self, jobs: JobStore, publisher: Publisher, interval_s: float) -> None:
        self._jobs = jobs
        self._publisher = publisher
        self._interval_s = interval_s

    async def tick(self) -> None:
        """One sweep of all shards. Raises `StoreUnavailable`."""
        for shard in SHARDS:
            stale, promoted = await self._jobs.sweep(shard, BATCH)
            await publish_all(self._jobs, self._publisher, stale, "stale")
            await publish_all(self._jobs, self._publisher, promoted, "promoted")

    async def run(self) -> None:
        """Ticks for ever; a store that is away is tried again at the next tick."""
        while True:
            try:
                await self.tick()
            except UnavailableError as error:
                metrics.REPAIRED.labels("sweep").inc()
                log.warning("sweep_failed", code=error.code)
            await asyncio.sleep(self._interval_s)
