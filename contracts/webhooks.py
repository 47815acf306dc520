"""Webhooks: what a client subscribes to, what must be delivered, and what was tried.

The transition that ends a job also creates its delivery: the event `job.<status>`, with one webhook id
for all attempts. Where people, or a scan by a new policy, decide on images of the job later, the event `job.moderated` follows, each
time with a webhook id of its own. The format is Standard Webhooks
(https://www.standardwebhooks.com).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from contracts.documents import Document, Frozen
from contracts.jobs import Job, JobStatus, Webhook

MODERATED: Final = "job.moderated"
"""People have decided on images of the job."""
EVENTS: Final = (*(f"job.{status.value}" for status in JobStatus if status.terminal), MODERATED)
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with

__all__ = [
    "EVENTS",
    "MODERATED",
    "SECRET_PREFIX",
    "Attempt",
    "Call",
    "Delivery",
    "DeliveryStatus",
    "Duty",
    "Secret",
    "Webhook",
    "event_of",
    "webhook_id",
]


class DeliveryStatus(StrEnum):
    """The state of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Not delivered within three days, or the address is one that we do not call."""
    DISABLED = "disabled"
    """The receiver has answered 410 Gone."""


class Attempt(Document):
    """One call of a receiver. `status_code` is None if there was no answer; `error` then says why."""

    at: float
    duration_ms: float
    status_code: int | None = None
    error: str | None = None


class Call(Document):
    """The message on the queue: make attempt number `attempt`, from 1, for the job.

    It may be lost; the outbox repeats it.
    """

    job_id: str
    attempt: Annotated[int, Field(ge=1)]


class Delivery(Frozen):
    """The state of the delivery of a job's event.

    `webhook` is None if the job names none. `event` is None while the job lives, or if the client did not
    subscribe to the event.
    """

    webhook: Webhook | None
    event: str | None = None
    status: DeliveryStatus | None = None
    attempts: tuple[Attempt, ...] = ()
    next_attempt_at: float | None = None
    round: int = 0
    """How many events of the job were owed before this one."""


class Duty(Frozen):
    """A granted attempt: call the receiver, then `settle` under the same attempt number."""

    call: Call
    job: Job
    webhook: Webhook
    owed_at: float
    """When the job ended, or people decided. The delivery lapses three days later."""
    event: str
    round: int = 0
    """How many events of the job were owed before this one."""
    attempt: Annotated[int, Field(ge=1)]
    """The number of the attempt among those for this event."""


class Secret(Document):
    """A secret that signs a tenant's webhooks: `whsec_` and 32 bytes in base64.

    With `expires_at` it has been replaced, and signs beside its successor until then.
    """

    value: str
    created_at: float
    expires_at: float | None = None


def event_of(status: JobStatus) -> str:
    """The event of a job that ended with `status`."""
    return f"job.{status.value}"


def webhook_id(job_id: str, round_: int = 0) -> str:
    """The webhook id of an event of a job. `round_` is `Duty.round`."""
    return f"msg_{job_id.removeprefix('job_')}" + (f"_{round_}" if round_ else "")
