"""From what Redis holds of a job to our types, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contracts.jobs import (
    NOWHERE,
    CacheStatus,
    GenerationRequest,
    Job,
    JobFailure,
    JobMessage,
    JobResult,
    JobStatus,
    Lease,
    Origin,
    Priority,
    Progress,
    Webhook,
)
from contracts.ports import TakenJob
from telemetry.logs import get_logger

log = get_logger(__name__)


def paired(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def messages_of(parts: Sequence[Sequence[str]]) -> tuple[JobMessage, ...]:
    """The messages of jobs, as the scripts give them. A record of which this version cannot read the request is left out: it must
    not stand in the way of the others. Its job ends by its attempts or its deadline."""
    found = [_message_of(each) for each in parts]
    return tuple(message for message in found if message is not None)


def _message_of(parts: Sequence[str]) -> JobMessage | None:
    job_id, tenant, key, request, created_at, deadline, priority, origin, webhook = parts
    try:
        return JobMessage(
            job_id=job_id,
            tenant=tenant,
            key=key,
            request=GenerationRequest.model_validate_json(request),
            created_at=float(created_at),
            deadline=float(deadline),
            priority=Priority(priority),
            origin=origin_of(origin),
            webhook=hook_of(webhook),
        )
    except ValueError as error:
        log.error("record_unreadable", job_id=job_id, error=type(error).__name__)
        return None


def taken_of(given: Sequence[Any]) -> TakenJob | None:
    """A job that a worker has taken, as the script gives it. None where it cannot be read: its lease lapses, and after a few
    attempts it fails, unless a worker of another version runs it."""
    parts, attempt, started_at, claimed_at, tag = given
    message = _message_of(parts)
    if message is None:
        return None
    return TakenJob(message, lease_of(parts[0], attempt, started_at, claimed_at), float(tag))


def lease_of(job_id: str, attempt: int, started_at: str, claimed_at: str) -> Lease:
    return Lease(job_id=job_id, attempt=attempt, started_at=float(started_at), claimed_at=float(claimed_at))


def job_of(record: dict[str, str]) -> Job:
    started, finished = record.get("started_at"), record.get("finished_at")
    result, failure = record.get("result"), record.get("failure")
    step, steps = record.get("step"), record.get("steps")
    return Job(
        id=record["id"],
        tenant=record["tenant"],
        key=record["key"],
        request=GenerationRequest.model_validate_json(record["request"]),
        status=JobStatus(record["status"]),
        cache=CacheStatus(record["cache"]),
        created_at=float(record["created_at"]),
        deadline=float(record["deadline"]),
        started_at=None if started is None else float(started),
        finished_at=None if finished is None else float(finished),
        attempt=int(record["attempt"]),
        result=None if result is None else JobResult.model_validate_json(result),
        failure=None if failure is None else JobFailure.model_validate_json(failure),
        priority=Priority(record["priority"]),
        tag=float(record["tag"]),
        sequence=int(record.get("sequence", 0)),
        progress=None if step is None or steps is None else Progress(step=int(step), steps=int(steps)),
        origin=origin_of(record.get("origin")),
        webhook=hook_of(record.get("webhook")),
    )


def hook_of(json: str | None) -> Webhook | None:
    return None if json is None else Webhook.model_validate_json(json)


def hook_json(webhook: Webhook | None) -> str:
    return "" if webhook is None else webhook.model_dump_json()


def origin_of(told: str | None) -> Origin:
    return Origin.model_validate_json(told) if told else NOWHERE
