"""Publishes messages that a crash, a lost confirm or a promotion has left in the outbox.

The pattern is the transactional outbox (Richardson, "Microservices Patterns", chapter 3).
`broker.sweeper` decides when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from contracts.errors import UnavailableError
from contracts.jobs import JobMessage
from contracts.ports.job_store import JobStore
from contracts.ports.publisher import Publisher
from telemetry import metrics
from telemetry.logs import get_logger

log = get_logger(__name__)


async def publish_all(
    jobs: JobStore, publisher: Publisher, messages: Iterable[JobMessage], reason: str
) -> None:
    """Publish and confirm each message.

    A failed one stays in the outbox, and a later sweep tries it again.
    """
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
