"""What the job store in memory keeps, and what it makes of a request or a message."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from contracts.jobs import CacheStatus, Job, JobFailure, JobMessage, JobResult, JobStatus, NewJob

DOUBT_S = 10.0  # as in lua/prelude.lua
STEP_S = 5.0  # as in lua/steady.lua


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
            self.until = min(self.until, now + lease_s)  # of a clock that was ahead
            return False
        self.name, self.until = name, now + lease_s
        return True


@dataclass(slots=True)
class Marks:
    """When each shard was last swept, by the store's clock: the twin of `mark` in `lua/prelude.lua`."""

    at: dict[str, float] = field(default_factory=dict)

    def left(self, shard: str, deadline: float, now: float) -> float:
        """What is left of a deadline, in seconds; while the clock may have been set, what was left at the last sweep."""
        mark = self.at.get(shard, now)
        return deadline - (mark if deadline <= now and now - mark > DOUBT_S else now)

    def step(self, shard: str, now: float, elapsed_s: float | None) -> float:
        """By how many seconds the clock was set since the last sweep, `elapsed_s` ago. This is a sweep."""
        step_s = now - self.at.get(shard, now) - (elapsed_s or 0.0)
        self.at[shard] = now
        if elapsed_s is None:
            step_s = min(step_s, 0.0)
        return step_s if abs(step_s) >= STEP_S else 0.0


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
