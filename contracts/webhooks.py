"""Webhooks: what a client subscribes to, what must be delivered, and what was tried.

The transition that ends a job also creates its delivery. A job ends once, so it has one event,
`job.<status>`, and one webhook id for all attempts. The format is Standard Webhooks
(https://www.standardwebhooks.com).
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


class Duty(Frozen):
    """A granted attempt: call the receiver, then `settle` under the same attempt number."""

    call: Call
    job: Job
    webhook: Webhook
    owed_at: float
    """When the job ended. The delivery lapses three days later."""


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


def webhook_id(job_id: str) -> str:
    """The webhook id of a well-formed job id."""
    return f"msg_{job_id.removeprefix('job_')}"


class WebhookStore(Protocol):
    """The outbox of webhooks.

    The transition that ends a job adds its delivery here in the same step, so no delivery is lost or added
    twice. Each delivery is due at a time. `take` and `begin` move that time on. If their caller dies, the
    delivery becomes due again by itself.
    """

    @property
    def shards(self) -> Sequence[str]:
        """One digit per shard of the store, as `JobStore.shards`."""
        ...

    async def take(self, shard: str, limit: int, lease_s: float) -> Sequence[Call]:
        """Up to `limit` calls of the shard that are due now, oldest first.

        They are not due again for `lease_s` seconds.
        """
        ...

    async def begin(self, call: Call, lease_s: float) -> Duty | None:
        """Grant the attempt for `lease_s` seconds.

        None: the attempt was already made, another process holds it, the delivery has ended, or its record is gone.
        """
        ...

    async def settle(
        self, call: Call, attempt: Attempt, status: DeliveryStatus, next_in_s: float | None
    ) -> bool:
        """Log the attempt. Returns false if a later attempt has fenced it off.

        With `pending` the delivery is due again in `next_in_s` seconds. Any other status ends the delivery.
        """
        ...

    async def defer(self, call: Call, seconds: float) -> None:
        """Return a begun attempt, uncounted. The delivery is due again in `seconds`."""
        ...

    async def get(self, tenant: str, job_id: str) -> Delivery:
        """The delivery log of a job. Raises the same errors as `JobStore.get`."""
        ...

    async def due(self) -> int:
        """How many deliveries are due now and not taken."""
        ...

    def wakes(self) -> AsyncIterator[str]:
        """Shards in which a job with a webhook has just ended.

        Ends with its connection, and may miss some.
        """
        ...

    async def disable(self, tenant: str, url: str) -> None:
        """Stop deliveries to a receiver that is gone: those of the tenant that begin within three days
        lapse."""
        ...

    async def disabled(self, tenant: str, url: str) -> bool:
        """Whether `disable` stopped deliveries to the tenant's receiver."""
        ...

    async def secrets(self, tenant: str) -> Sequence[Secret]:
        """The tenant's valid secrets, the current one first. The first call creates one."""
        ...

    async def rotate(self, tenant: str, overlap_s: float) -> Sequence[Secret]:
        """Create a new secret.

        The previous one stays valid for `overlap_s` seconds; older ones end at once.
        """
        ...
