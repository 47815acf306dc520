"""Admission control: compares a job's predicted wait with the time that it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contracts.models import WorkerInfo

HEADROOM: Final = 0.8
"""Share of a job's time that its predicted wait may take, since predictions err."""
LONGEST_RETRY_S: Final = 60.0
NONE_AHEAD: Final = -1
MANY: Final = 10**7
"""More jobs than any queue holds."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The job can be promised.

    `eta_s` is the predicted time in seconds; None: no live worker reports its rate.
    """

    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The predicted wait is too long. After `retry_after_s` seconds the job should fit."""

    wait_s: float
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """The workers that serve a model now, added up.

    Together they do `steps_per_s` denoising steps of one image per second. They still need `backlog_steps` for
    their active jobs. A recent job needed `steps_per_job` on average.
    """

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
    """Seconds until a job of `steps` with `jobs_ahead` is done; None where no worker reports its rate."""
    if capacity.steps_per_s <= 0:
        return None
    ahead = capacity.backlog_steps + jobs_ahead * capacity.steps_per_job
    return (ahead + steps) / capacity.steps_per_s


def admit(jobs_ahead: int, steps: float, capacity: Capacity, ttl_s: float) -> Admitted | Refused:
    """Decide on a job of `steps` that has `ttl_s` seconds, behind `jobs_ahead` in the fair order.

    Where no worker reports its rate, the job is accepted. It waits, and at worst expires.
    """
    wait_s = eta_s(jobs_ahead, steps, capacity)
    budget_s = HEADROOM * ttl_s
    if wait_s is None or wait_s <= budget_s:
        return Admitted(wait_s)
    return Refused(wait_s, min(LONGEST_RETRY_S, max(1.0, wait_s - budget_s)))


def most_ahead(steps: float, capacity: Capacity, ttl_s: float) -> int | None:
    """The largest number of jobs ahead with which `admit` accepts the job; None: any number, -1: none.

    The caller that counts the jobs can then decide by the count alone.
    """

    def fits(jobs_ahead: int) -> bool:
        return isinstance(admit(jobs_ahead, steps, capacity, ttl_s), Admitted)

    if not fits(0):
        return NONE_AHEAD
    if fits(MANY):
        return None
    room = HEADROOM * ttl_s * capacity.steps_per_s - capacity.backlog_steps - steps
    most = min(MANY, max(0, int(room / capacity.steps_per_job)))
    # The formula may differ from `admit` by a rounding error. `admit` decides.
    while not fits(most):
        most -= 1
    while fits(most + 1):
        most += 1
    return most
