"""Webhooks: what a client asks for, what is owed, what was tried. The duty to deliver is born with the job's end.

A job ends once, so it has one event, `job.<status>`, and one webhook id however often it is delivered.
The form is that of Standard Webhooks (https://www.standardwebhooks.com).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import Annotated, Final, Protocol

from pydantic import Field

from contracts.documents import Document, Frozen
from contracts.jobs import Job, JobStatus, Webhook

EVENTS: Final = tuple(f"job.{status.value}" for status in JobStatus if status.terminal)
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with

__all__ = [
    "EVENTS",
    "SECRET_PREFIX",
    "Attempt",
    "Call",
    "Delivery",
    "DeliveryStatus",
    "Duty",
    "Secret",
    "Webhook",
    "WebhookStore",
    "event_of",
    "webhook_id",
]


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Not delivered in three days, or to an address that we do not call."""
    DISABLED = "disabled"
    """The receiver has said 410 Gone."""


class Attempt(Document):
    """One call of a receiver. `status_code` is None where there was no answer; then `error` says why."""

    at: float
    duration_ms: float
    status_code: int | None = None
    error: str | None = None


class Call(Document):
    """What the queue carries: make attempt `attempt` (1 is the first) for the job. A wake-up, not the duty itself."""

    job_id: str
    attempt: Annotated[int, Field(ge=1)]


class Delivery(Frozen):
    """How far the delivery of a job's event has come. `webhook` is None where the job names none; `event` while the job
    lives, or if it was not asked for."""

    webhook: Webhook | None
    event: str | None = None
    status: DeliveryStatus | None = None
    attempts: tuple[Attempt, ...] = ()
    next_attempt_at: float | None = None


class Duty(Frozen):
    """An attempt that was granted: call the receiver, then `settle` under the same attempt number."""

    call: Call
    job: Job
    webhook: Webhook
    owed_at: float
    """When the job ended: three days from here the duty lapses."""


class Secret(Document):
    """What signs a tenant's webhooks: `whsec_` and 32 bytes in base64. With `expires_at` it has been replaced, and signs
    beside its successor until then."""

    value: str
    created_at: float
    expires_at: float | None = None


def event_of(status: JobStatus) -> str:
    return f"job.{status.value}"


def webhook_id(job_id: str) -> str:
    """The one id of the event of a well-formed job id."""
    return f"msg_{job_id.removeprefix('job_')}"


class WebhookStore(Protocol):
    """The outbox of webhooks. The transition that ends a job puts its duty here, in the same step, so that none is lost
    or owed twice. Each duty is due at a time; taking or beginning it moves that time on, so that it falls due again by
    itself should the taker die."""

    @property
    def shards(self) -> Sequence[str]:
        """Each shard of the store, by one digit of the ids whose jobs it keeps."""
        ...

    async def take(self, shard: str, limit: int, lease_s: float) -> Sequence[Call]:
        """Up to `limit` calls of the shard that are due now, the oldest first; not due again for `lease_s`."""
        ...

    async def begin(self, call: Call, lease_s: float) -> Duty | None:
        """Grants the attempt for `lease_s`. None: made already, in other hands, settled, or forgotten."""
        ...

    async def settle(
        self, call: Call, attempt: Attempt, status: DeliveryStatus, next_in_s: float | None
    ) -> bool:
        """Logs the attempt. `pending` falls due again in `next_in_s`; anything else ends the duty. False: fenced off."""
        ...

    async def defer(self, call: Call, seconds: float) -> None:
        """Gives a begun attempt back, uncounted, to fall due in `seconds`."""
        ...

    async def get(self, tenant: str, job_id: str) -> Delivery:
        """The delivery log. Raises as `JobStore.get`."""
        ...

    async def due(self) -> int:
        """How many duties are due now and not taken."""
        ...

    def wakes(self) -> AsyncIterator[str]:
        """Shards on which a job has just ended that owes a webhook. Ends with its connection; it may miss some."""
        ...

    async def disable(self, tenant: str, url: str) -> None:
        """The receiver has gone: what the tenant owes it lapses, as far as it is begun within three days."""
        ...

    async def disabled(self, tenant: str, url: str) -> bool: ...

    async def secrets(self, tenant: str) -> Sequence[Secret]:
        """The tenant's valid secrets, the current one first; made at the first call."""
        ...

    async def rotate(self, tenant: str, overlap_s: float) -> Sequence[Secret]:
        """A new secret; the one before it stays valid for `overlap_s` seconds. Older ones end at once."""
        ...
