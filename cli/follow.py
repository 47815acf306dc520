"""The progress of a job: from its events, or from polls if the server sends none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from client import Client, Event, Job, StillRunning

POLL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a job.

    `ahead` counts the jobs before it in the queue. A value that is not known is None.
    """

    status: str
    ahead: int | None = None
    eta_s: float | None = None
    step: int | None = None
    steps: int | None = None

    def __str__(self) -> str:
        if self.status == "queued" and self.ahead is not None:
            when = "" if self.eta_s is None else f", about {self.eta_s:.0f} s"
            return f"queued, {self.ahead} ahead{when}"
        if self.status == "running" and self.step is not None:
            return f"running, step {self.step} of {self.steps}"
        return self.status


def follow(client: Client, job: Job, timeout_s: float) -> Iterator[Progress]:
    """Yields the progress now and after every change, until the job has ended.

    Raises `StillRunning` after `timeout_s` seconds, and other errors of the client.
    """
    last = progress_of(job)
    yield last
    until = time.monotonic() + timeout_s
    changes = _from_events(client, job, last, until) if job.urls.events else _from_polls(client, job, until)
    for progress in changes:
        if progress != last:
            last = progress
            yield progress


def progress_of(job: Job) -> Progress:
    """Returns the progress that a job's record states."""
    return Progress(job.status, job.queue_position, job.eta_seconds)


def after_event(last: Progress, event: Event) -> Progress:
    """Returns the progress after `event`, given the `last` one. Other kinds of events change nothing."""
    data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
    if event.name == "progress":
        return Progress("running", step=data.get("step"), steps=data.get("steps"))
    if event.name in ("snapshot", "status") and "status" in data:
        return Progress(data["status"], data.get("queue_position"), data.get("eta_seconds"))
    return last


def _from_events(client: Client, job: Job, last: Progress, until: float) -> Iterator[Progress]:
    if job.ended:
        return
    for event in client.events(job, until - time.monotonic()):
        last = after_event(last, event)
        yield last


def _from_polls(client: Client, job: Job, until: float) -> Iterator[Progress]:
    while not job.ended:
        if (left_s := until - time.monotonic()) <= 0:
            raise StillRunning(job)
        if left_s < POLL_S:
            time.sleep(left_s)
        job = client.job(job.id, wait_s=min(POLL_S, left_s))
        yield progress_of(job)
