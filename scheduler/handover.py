"""When the next pass is handed to an engine that is still busy, so that its device does not wait for the worker between two passes.

What is handed over is settled: a newcomer goes to the pass after it, and an image that is canceled then takes one more step. So it happens
late. A pass that is full is settled anyway, for the worker brings no more images than fill it (`scheduler.prefetch`): it goes as soon as
the images of the next pass are wanted. One with room left goes in the last moment.

Nothing in it may depend on the outcome of the pass that runs: it holds images that have not begun, and samples that go on, whatever becomes
of the others. Where the pass that runs fails as a whole, the one behind it is not run but chosen anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from contracts.engine import BatchKey

LAST_MOMENT_S: Final = 0.001
"""What it takes to choose a pass and to say it to the engine."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image in hand that needs the pass after the one that runs."""

    key: BatchKey
    group: int
    tag: float


def last_moment_s(deviation_s: float) -> float:
    """How long before its end by prediction a pass may end as a rule; `deviation_s` is the mean error of predictions."""
    return LAST_MOMENT_S + deviation_s


def is_full(candidates: Sequence[Candidate], limit: Callable[[BatchKey], int]) -> bool:
    """Whether they fill the pass that the smallest tag leads; `limit` is how many images share a pass of a key."""
    if not candidates:
        return False
    lead = min(candidates, key=lambda each: each.tag)
    together = sum(each.key == lead.key and each.group == lead.group for each in candidates)
    return together >= limit(lead.key)


def due_in_s(
    now: float, ends_at: float, *, full: bool, coming: bool, lead_s: float, moment_s: float
) -> float | None:
    """Seconds until the next pass is handed over. None: not before there are more images in hand.

    The pass that runs should end at `ends_at`. `coming`: more images are on their way to the worker's hand. `lead_s`: so long before
    the end the images of the next pass are wanted. `moment_s`: see `last_moment_s`.
    """
    if full:
        return max(0.0, ends_at - lead_s - now)
    left_s = ends_at - moment_s - now
    if left_s > 0:
        return left_s
    return None if coming else 0.0
