"""A job as it goes on: from its events where the server tells them, else from polls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from client import Client, Event, Job

POLL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job has come; what is not known is None."""

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


def follow(client: Client, job: Job) -> Iterator[Progress]:
    """Every change from now on, each once, to the end. Raises what the client does."""
    last = progress_of(job)
    yield last
    steps = _from_events(client, job, last) if job.urls.events else _from_polls(client, job)
    for progress in steps:
        if progress != last:
            last = progress
            yield progress


def progress_of(job: Job) -> Progress:
    return Progress(job.status, job.queue_position, job.eta_seconds)


def told(last: Progress, event: Event) -> Progress:
    """What is known after the event. Events of another kind change nothing."""
    data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
    if event.name == "progress":
        return Progress("running", step=data.get("step"), steps=data.get("steps"))
    if event.name in ("snapshot", "status") and "status" in data:
        return Progress(data["status"], data.get("queue_position"), data.get("eta_seconds"))
    return last


def _from_events(client: Client, job: Job, last: Progress) -> Iterator[Progress]:
    if job.ended:
        return
    for event in client.events(job):
        last = told(last, event)
        yield last


def _from_polls(client: Client, job: Job) -> Iterator[Progress]:
    while not job.ended:
        job = client.job(job.id, wait_s=POLL_S)
        yield progress_of(job)
