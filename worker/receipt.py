"""A delivery as the worker holds it: whose job it is, and what it says, which is read only where the store does not know the job."""

from __future__ import annotations

from typing import Any

from celery.exceptions import Reject
from pydantic import ValidationError

from contracts.jobs import Envelope, JobMessage
from telemetry import metrics
from telemetry.logs import get_logger

log = get_logger(__name__)


class Receipt:
    """One delivery, of a message of kombu's. Its job's id stands in the headers, where every version has written it; the body is neither
    decoded nor parsed before `read`."""

    __slots__ = ("_delivered", "job_id")

    def __init__(self, delivered: Any) -> None:
        """Raises `Reject` for a message without an id."""
        job_id = delivered.headers.get("id")
        if not isinstance(job_id, str) or not job_id:
            raise refused("no job id")
        self.job_id = job_id
        self._delivered = delivered

    def read(self) -> JobMessage | Envelope:
        """The job; its envelope alone where only a newer version may run it. Raises `Reject` for what is no job, or another than its
        headers say."""
        try:
            (message,), _, _ = self._delivered.payload
        except Exception as error:  # noqa: BLE001 - whatever a body is, it is the sender's fault
            raise refused(type(error).__name__) from None
        job = job_of_message(message)
        if job.job_id != self.job_id:
            raise refused("another job's id")
        return job


def job_of_message(message: Any) -> JobMessage | Envelope:
    """The job of a message; its envelope alone where only a newer version may run it. Raises `Reject` for what is no job."""
    try:
        job = JobMessage.model_validate(message)
        if job.readable:
            return job
    except ValidationError as error:
        try:
            envelope = Envelope.model_validate(message)
        except ValidationError:
            envelope = None
        if envelope is None or envelope.readable:
            raise refused(f"{error.error_count()} faults") from None
        return envelope
    return Envelope(job_id=job.job_id, min_schema=job.min_schema)


def refused(reason: str) -> Reject:
    """What is raised for a message that is kept aside for people to look at; counted, and its words, which may be a prompt, not told."""
    log.error("message_refused", reason=reason)
    metrics.MESSAGES_REFUSED.inc()
    return Reject("not a job message", requeue=False)
