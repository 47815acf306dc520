"""Whether a job can be promised: the wait that it faces against the time that it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contracts.models import WorkerInfo

HEADROOM: Final = 0.8
"""Share of a job's time that its predicted wait may take: predictions err."""
LONGEST_RETRY_S: Final = 60.0
NONE_AHEAD: Final = -1
MANY: Final = 10**7
"""More jobs than any queue holds."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """`eta_s` is None where no live worker tells its rate."""

    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Come again in `retry_after_s`: by then enough will have been done for the job to fit."""

    wait_s: float
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """What serves a model now, as its workers tell it: `steps_per_s` denoising steps of one image a second in all, after the
    `backlog_steps` that they have in hand; a job lately asked for `steps_per_job` of them."""

    steps_per_s: float = 0.0
    backlog_steps: float = 0.0
    steps_per_job: float = 1.0


def capacity_of(workers: Sequence[WorkerInfo]) -> Capacity:
    """What the workers of a model can do together."""
    if not workers:
        return Capacity()
    return Capacity(
        sum(worker.steps_per_s for worker in workers),
        sum(worker.backlog_steps for worker in workers),
        sum(worker.steps_per_job for worker in workers) / len(workers),
    )


def eta_s(jobs_ahead: int, steps: float, capacity: Capacity) -> float | None:
    """Seconds until a job of `steps` is done that has `jobs_ahead` before it; None where no worker tells its rate."""
    if capacity.steps_per_s <= 0:
        return None
    ahead = capacity.backlog_steps + jobs_ahead * capacity.steps_per_job
    return (ahead + steps) / capacity.steps_per_s


def admit(jobs_ahead: int, steps: float, capacity: Capacity, ttl_s: float) -> Admitted | Refused:
    """The verdict on a job of `steps` that has `ttl_s` seconds, behind `jobs_ahead` in the fair order.

    Where no worker tells its rate, the job is taken, waits, and at worst expires.
    """
    wait_s = eta_s(jobs_ahead, steps, capacity)
    budget_s = HEADROOM * ttl_s
    if wait_s is None or wait_s <= budget_s:
        return Admitted(wait_s)
    return Refused(wait_s, min(LONGEST_RETRY_S, max(1.0, wait_s - budget_s)))


def most_ahead(steps: float, capacity: Capacity, ttl_s: float) -> int | None:
    """The largest number of jobs ahead with which `admit` takes the job; None: any number, -1: none. So that whoever counts them can
    decide by the count alone."""

    def fits(jobs_ahead: int) -> bool:
        return isinstance(admit(jobs_ahead, steps, capacity, ttl_s), Admitted)

    if not fits(0):
        return NONE_AHEAD
    if fits(MANY):
        return None
    room = HEADROOM * ttl_s * capacity.steps_per_s - capacity.backlog_steps - steps
    most = min(MANY, max(0, int(room / capacity.steps_per_job)))
    # `admit` has the last word: the formula may differ from it by a rounding.
    while not fits(most):
        most -= 1
    while fits(most + 1):
        most += 1
    return most
