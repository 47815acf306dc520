"""Webhooks: what a client asks for, what is owed, what was tried. The duty to deliver is born with the job's end.

A job ends once, so it has one event, `job.<status>`, and one webhook id however often it is delivered.
The form is that of Standard Webhooks (https://www.standardwebhooks.com).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from contracts.jobs import Frozen, Job, JobStatus, Webhook

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


class Attempt(Frozen):
    """One call of a receiver. `status_code` is None where there was no answer; then `error` says why."""

    at: float
    duration_ms: float
    status_code: int | None = None
    error: str | None = None


class Call(Frozen):
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


class Secret(Frozen):
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
