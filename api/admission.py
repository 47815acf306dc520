"""Whether one more computation can be accepted: the model is served, and the job would end in time
behind the jobs ahead. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from contracts.errors import ModelUnavailable, QueueFull, UnavailableError
from contracts.models import ServedModel
from scheduler.admission import MANY, NONE_AHEAD, Refused, admit, capacity_of, most_ahead

COME_BACK_S: Final = 10.0
"""When a client should come again for a model that no worker serves, in seconds."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How many jobs may be ahead of a job of `steps` denoising steps that has `ttl_s` seconds
    (`most_ahead`).

    -1: the job may not be computed, because of `unserved`, or because it could not end in time even
    with no job ahead. A job that needs no computation is always accepted.
    """

    served: ServedModel
    steps: float
    ttl_s: float
    unserved: UnavailableError | None
    most_ahead: int
    counted: int | None = None
    """How many jobs are ahead, if they were counted before."""

    def behind(self, ahead: int) -> Bound:
        """This bound with `ahead` jobs counted. If they are too many, the job may not be computed."""
        most = self.most_ahead if ahead <= self.most_ahead else NONE_AHEAD
        return replace(self, most_ahead=most, counted=ahead)

    def refusal(self, ahead: int | None) -> UnavailableError:
        """The error for a job that may not be computed behind `ahead` others (None: they were not
        counted)."""
        if self.unserved is not None:
            return self.unserved
        ahead = ahead if ahead is not None else self.counted or 0
        verdict = admit(ahead, self.steps, capacity_of(self.served.workers), self.ttl_s)
        if isinstance(verdict, Refused):
            return QueueFull(
                f"The queue is too long: the image would take about {verdict.wait_s:.0f} s.",
                retry_after_s=verdict.retry_after_s,
            )
        return QueueFull("No more computations are taken.")


def bound(served: ServedModel, steps: float, ttl_s: float, *, scale_from_zero: bool) -> Bound:
    """The bound for a job, with the workers that serve its model now.

    `scale_from_zero`: a model without workers may get some.
    """
    if not (served.workers or served.awaited or scale_from_zero):
        name = served.spec.name
        nobody = ModelUnavailable(f"No worker serves {name} now.", retry_after_s=COME_BACK_S, param="model")
        return Bound(served, steps, ttl_s, nobody, NONE_AHEAD)
    # Always a number: the jobs ahead are then counted, and the answer shows the count.
    most = most_ahead(steps, capacity_of(served.workers), ttl_s)
    return Bound(served, steps, ttl_s, None, MANY if most is None else most)
