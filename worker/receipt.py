"""A delivery as the worker holds it: its job's id, and its message, which is read only if needed."""

from __future__ import annotations

from typing import Any

from celery.exceptions import Reject
from pydantic import ValidationError

from contracts.jobs import Envelope, JobMessage
from telemetry import metrics
from telemetry.logs import get_logger

log = get_logger(__name__)


class Receipt:
    """One delivery of a kombu message.

    The job's id is in the headers, where every version writes it. Only `read` decodes and parses
    the body.
    """

    __slots__ = ("_delivered", "job_id")

    def __init__(self, delivered: Any) -> None:
        """`delivered` is a kombu message. Raises `Reject` for a message without an id."""
        job_id = delivered.headers.get("id")
        if not isinstance(job_id, str) or not job_id:
            raise refused("no job id")
        self.job_id = job_id
        self._delivered = delivered

    def read(self) -> JobMessage | Envelope:
        """The job. Only its envelope, where only a newer version may run it.

        Raises `Reject` for a message that is no job, or whose headers have another job's id.
        """
        try:
            (message,), _, _ = self._delivered.payload
        except Exception as error:  # noqa: BLE001 - any error is the sender's fault
            raise refused(type(error).__name__) from None
        job = job_of_message(message)
        if job.job_id != self.job_id:
            raise refused("another job's id")
        return job


def job_of_message(message: Any) -> JobMessage | Envelope:
    """The job of a message. Only its envelope, where only a newer version may run it.

    Raises `Reject` for a message that is no job.
    """
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
    """The `Reject` of a message that becomes a dead letter. It is counted.

    Its contents are not logged, because they may contain a prompt.
    """
    log.error("message_refused", reason=reason)
    metrics.MESSAGES_REFUSED.inc()
    return Reject("not a job message", requeue=False)
