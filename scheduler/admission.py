"""Whether a job can be promised: the wait that it faces against the time that it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HEADROOM: Final = 0.8
"""Share of a job's time that its predicted wait may take: predictions err."""
LONGEST_RETRY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Admitted:
    """`eta_s` is None where no live worker tells its rate."""

    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Come again in `retry_after_s`: by then enough will have been done for the job to fit."""

    wait_s: float
    retry_after_s: float


def eta_s(waiting_jobs: int, images: int, images_per_s: float) -> float | None:
    """Seconds until a job of `images` is done that has `waiting_jobs` (counted as one image each) before it."""
    return (waiting_jobs + images) / images_per_s if images_per_s > 0 else None


def admit(waiting_jobs: int, images: int, images_per_s: float, ttl_s: float) -> Admitted | Refused:
    """The verdict on a job of `images` that has `ttl_s` seconds, behind `waiting_jobs`, at the workers' rate in all.

    Without a live worker there is no rate: the job is taken, waits, and at worst expires.
    """
    wait_s = eta_s(waiting_jobs, images, images_per_s)
    budget_s = HEADROOM * ttl_s
    if wait_s is None or wait_s <= budget_s:
        return Admitted(wait_s)
    return Refused(wait_s, min(LONGEST_RETRY_S, max(1.0, wait_s - budget_s)))
