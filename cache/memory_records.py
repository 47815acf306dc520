"""What the job store in memory keeps, and what it makes of a request or a message."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from contracts.jobs import CacheStatus, Job, JobFailure, JobMessage, JobResult, JobStatus, NewJob


@dataclass(slots=True)
class Record:
    """A job, and what only the store knows of it."""

    job: Job
    lease_until: float = 0.0
    uncounted: int = 0
    fault: JobFailure | None = None
    """Why its last attempt was given back."""


@dataclass(slots=True)
class Keeper:
    """Who keeps house, and until when."""

    name: str = ""
    until: float = 0.0

    def elect(self, name: str, now: float, lease_s: float) -> bool:
        if self.name != name and self.until > now:
            return False
        self.name, self.until = name, now + lease_s
        return True


@dataclass(slots=True)
class Flight:
    """The computation of one key."""

    leader: str
    promotions: int = 0
    followers: deque[str] = field(default_factory=deque)
    result: JobResult | None = None
    landed_at: float = 0.0


def place(job: Job) -> tuple[float, str]:
    """The order of the queue: by fair tag, and of the same tag the older first, for ids sort by time."""
    return job.tag, job.id


def new_job(job_id: str, source: NewJob | JobMessage, created_at: float, deadline: float) -> Job:
    """A queued job that leads nothing yet."""
    return Job(
        id=job_id,
        tenant=source.tenant,
        key=source.key,
        request=source.request,
        status=JobStatus.QUEUED,
        cache=CacheStatus.MISS,
        created_at=created_at,
        deadline=deadline,
        priority=source.priority,
        origin=source.origin,
        webhook=source.webhook,
    )
