"""Whether one more computation can be promised: somebody serves the model, and the job would end in time behind those ahead. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from contracts.errors import ModelUnavailable, QueueFull, UnavailableError
from contracts.models import ServedModel
from scheduler.admission import MANY, NONE_AHEAD, Refused, admit, capacity_of, most_ahead

COME_BACK_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Bound:
    """`most_ahead` jobs may be ahead of a job of `steps` that has `ttl_s` seconds; -1: it may not be computed, because of
    `unserved` or because it could not end in time even if nothing were ahead. What costs no computation is always welcome."""

    served: ServedModel
    steps: float
    ttl_s: float
    unserved: UnavailableError | None
    most_ahead: int
    counted: int | None = None
    """How many are ahead, where that was asked for before."""

    def behind(self, ahead: int) -> Bound:
        """This bound, by a count that was made before: where it does not hold, the job may not be computed."""
        most = self.most_ahead if ahead <= self.most_ahead else NONE_AHEAD
        return replace(self, most_ahead=most, counted=ahead)

    def refusal(self, ahead: int | None) -> UnavailableError:
        """Why the job is not computed behind `ahead` others; None: nobody has counted."""
        if self.unserved is not None:
            return self.unserved
        ahead = ahead if ahead is not None else self.counted or 0
        verdict = admit(ahead, self.steps, capacity_of(self.served.workers), self.ttl_s)
        if isinstance(verdict, Refused):
            return QueueFull(
                f"The queue is too long: the picture would take about {verdict.wait_s:.0f} s.",
                retry_after_s=verdict.retry_after_s,
            )
        return QueueFull("No more computations are taken.")


def bound(served: ServedModel, steps: float, ttl_s: float, *, scale_from_zero: bool) -> Bound:
    """What a job may be promised with the workers that serve its model now."""
    if not (served.workers or served.awaited or scale_from_zero):
        name = served.spec.name
        nobody = ModelUnavailable(f"No worker serves {name} now.", retry_after_s=COME_BACK_S, param="model")
        return Bound(served, steps, ttl_s, nobody, NONE_AHEAD)
    # A number in any case: those ahead are then counted, and the client is told.
    most = most_ahead(steps, capacity_of(served.workers), ttl_s)
    return Bound(served, steps, ttl_s, None, MANY if most is None else most)
