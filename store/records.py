"""Converts job records from Redis to our types, and back. An unreadable record is an error of that
record alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from contracts.errors import RecordUnreadable
from contracts.jobs import (
    NOWHERE,
    CacheStatus,
    Job,
    JobFailure,
    JobMessage,
    JobResult,
    JobStatus,
    Lease,
    NewJob,
    Origin,
    Priority,
    Progress,
    Webhook,
)
from store.packed_request import pack, unpack
from telemetry import metrics
from telemetry.logs import get_logger

T = TypeVar("T")

Record = dict[str, str]
"""The fields of a job's record."""

UNREADABLE: Final = (ValueError, KeyError, TypeError)
"""Errors that a document of another version may raise. pydantic's `ValidationError` is a
`ValueError`."""

log = get_logger(__name__)


def read(kind: str, name: str, parse: Callable[[], T]) -> T:
    """The result of `parse` for the document `name` of that `kind`. Raises `RecordUnreadable`, and
    counts it."""
    try:
        return parse()
    except UNREADABLE as error:
        metrics.RECORDS_UNREADABLE.labels(kind).inc()
        # Without the text of the error, which may hold what a client sent.
        log.warning("record_unreadable", kind=kind, name=name, error=type(error).__name__)
        raise RecordUnreadable(
            f"This {kind} was written by a newer version of Darkroom, or is damaged; this process cannot read it."
        ) from None


def read_all(kind: str, documents: Iterable[tuple[str, Callable[[], T]]]) -> list[T]:
    """The results of all documents that can be read, each given by its name and its parser. The
    others are counted and left out."""
    readable = []
    for name, parse in documents:
        try:
            readable.append(read(kind, name, parse))
        except RecordUnreadable:
            continue
    return readable


def paired(flat: Sequence[str]) -> Record:
    """The fields of a record from the flat list that a script answers."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def messages_of(records: Iterable[Record]) -> tuple[JobMessage, ...]:
    """The messages of the jobs that can be read."""
    return tuple(read_all("job", ((record.get("id", ""), partial(message_of, record)) for record in records)))


def message_of(record: Record) -> JobMessage:
    """The message of a job, from its record. Raises one of `UNREADABLE`."""
    request = unpack(record["request"])
    return JobMessage(
        min_schema=request.min_schema,
        job_id=record["id"],
        tenant=record["tenant"],
        key=record["key"],
        request=request,
        created_at=float(record["created_at"]),
        deadline=float(record["deadline"]),
        priority=Priority(record["priority"]),
        origin=origin_of(record.get("origin")),
        webhook=hook_of(record.get("webhook")),
    )


def static_parts(job_id: str, job: NewJob | JobMessage) -> dict[str, Any]:
    """The parts of a job's record that never change, as a document for a script (`record` in
    `lua/record.lua`)."""
    return {"id": job_id, **shared_parts(job), "origin": job.origin.model_dump_json(exclude_none=True)}


def shared_parts(job: NewJob | JobMessage) -> dict[str, Any]:
    """Those of the static parts that many jobs may have in common."""
    parts = {
        "tenant": job.tenant,
        "key": job.key,
        "model": job.request.model,
        "request": pack(job.request),
        "priority": job.priority.value,
    }
    return parts if job.webhook is None else {**parts, "webhook": job.webhook.model_dump_json()}


def lease_of(job_id: str, attempt: int, started_at: str, claimed_at: str, deadline: str) -> Lease:
    """A lease from what a script answers. Times are Unix seconds, as text."""
    return Lease(
        job_id=job_id,
        attempt=attempt,
        started_at=float(started_at),
        claimed_at=float(claimed_at),
        deadline=float(deadline),
    )


def job_of(record: Record) -> Job:
    """The job of a whole record. Raises `RecordUnreadable`."""
    return read("job", record.get("id", ""), partial(_job_of, record))


def _job_of(record: Record) -> Job:
    started, finished = record.get("started_at"), record.get("finished_at")
    result, failure = record.get("result"), record.get("failure")
    step, steps = record.get("step"), record.get("steps")
    return Job(
        id=record["id"],
        tenant=record["tenant"],
        key=record["key"],
        request=unpack(record["request"]),
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
    """The webhook in a record; None: the job has none. Raises `ValueError`."""
    return None if json is None else Webhook.model_validate_json(json)


def origin_of(json: str | None) -> Origin:
    """The origin in a record; `NOWHERE`: it has none. Raises `ValueError`."""
    return Origin.model_validate_json(json) if json else NOWHERE
