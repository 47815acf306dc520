"""What became of one request of a storm, and the judgement of all: plain data, no I/O."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.faults.history import Counts

SHORT_S: Final = 30.0
"""A job with a shorter time-out may expire."""


@dataclass(slots=True)
class Outcome:
    """Answers and jobs of one request. `statuses` are those of HTTP, in order; `ended` is the last state of each accepted job."""

    index: int
    mode: str
    pictures: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)
    too_short: int = 0
    """Jobs that were refused for the wait is longer than their own short time-out: 503, and as it should be."""
    images: int = 0
    previews: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    """What should not have been."""

    def refused_for_its_time(
        self, status: int, error: Mapping[str, Any] | None, body: Mapping[str, Any]
    ) -> bool:
        """Whether a submit was refused because `body` gives its job too little time."""
        refused = status == 503 and may_expire(body) and error is not None and error["code"] == "queue_full"
        self.too_short += refused
        return refused

    def answered(self, status: int, expected: Iterable[int], what: str, text: str = "") -> bool:
        """Notes an answer. Answers whether it is one of `expected`."""
        self.statuses.append(status)
        if status in expected:
            return True
        self.faults.append(f"{what}: {status} {text[:300]}".rstrip())
        return False

    def job(self, job: Mapping[str, Any], body: Mapping[str, Any], *, may_be_canceled: bool = False) -> None:
        """Notes the state of the job that `body` asked for when its client lets go of it."""
        job_id, status = job["id"], job["status"]
        self.ended[job_id] = status
        allowed = {"succeeded", "expired" if may_expire(body) else "", "canceled" if may_be_canceled else ""}
        if status not in allowed:
            error = job.get("error") or {}
            self.faults.append(
                f"{job_id} is {status}: {error.get('code', '')} {error.get('message', '')}".rstrip(": ")
            )


def may_expire(body: Mapping[str, Any]) -> bool:
    """Whether `body` gives its job little time."""
    return bool(body.get("timeout_seconds", math.inf) <= SHORT_S)


@dataclass(slots=True)
class Tally:
    """All outcomes of a storm, counted."""

    requests: int = 0
    modes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    pictures: Counter[str] = field(default_factory=Counter)
    too_short: int = 0
    images: int = 0
    previews: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)
    """The index of the request, and what was wrong."""

    def add(self, outcome: Outcome) -> None:
        self.requests += 1
        self.modes[outcome.mode] += 1
        self.statuses.update(outcome.statuses)
        self.states.update(outcome.ended.values())
        self.pictures.update(outcome.pictures)
        self.too_short += outcome.too_short
        self.images += outcome.images
        self.previews += outcome.previews
        self.faults += [(outcome.index, fault) for fault in outcome.faults]


def violations(tally: Tally, counts: Counts, deaths: Iterable[str]) -> list[str]:
    """What must not be after a storm: a 5xx, a process that ended, a job that is lost or failed, an answer that was wrong.

    `counts` are the store's own of all jobs, `deaths` the processes that ended. Pure.
    """
    found = [f"request {index}: {fault}" for index, fault in tally.faults]
    found += [
        f"{count} answers of {status}" for status, count in sorted(tally.statuses.items()) if status >= 500
    ]
    found += list(deaths)
    ended = sum(counts.ended.values())  # those withdrawn too, which were refused
    if counts.live or counts.recorded != ended:
        found.append(f"{counts.recorded} jobs accepted, {ended} ended, {counts.live} still live")
    if failed := counts.ended.get("failed", 0):
        found.append(f"{failed} jobs failed")
    if not tally.requests:
        found.append("nothing was asked")
    return found
