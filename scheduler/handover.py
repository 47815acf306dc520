"""When the next batch is sent to an engine that is still busy, so the device does not wait between batches.

A batch that was sent is fixed. A newcomer joins the batch after it, and a canceled image takes one more
step. So the worker sends it late. A full batch is fixed anyway, since the worker fetches no more images
than fill it (`scheduler.prefetch`). It is sent as soon as the images of the next batch must be fetched. A
batch with room left is sent at the last moment.

The next batch must not depend on the outcome of the running one. It holds images that have not begun,
and samples that continue, whatever the results of the others are. If the running batch fails as a whole,
the next batch is not run but chosen again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from contracts.engine import BatchKey

LAST_MOMENT_S: Final = 0.001
"""Time to choose a batch and send it to the engine, in seconds."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image on this worker that needs the batch after the running one."""

    key: BatchKey
    group: int
    tag: float


def last_moment_s(deviation_s: float) -> float:
    """The lead time of the last moment, in seconds; `deviation_s` is the mean error of predicted batches."""
    return LAST_MOMENT_S + deviation_s


def is_full(candidates: Sequence[Candidate], limit: Callable[[BatchKey], int]) -> bool:
    """Whether the candidates fill the batch that the smallest tag leads;
    `limit` is the largest batch of a key."""
    if not candidates:
        return False
    lead = min(candidates, key=lambda candidate: candidate.tag)
    together = sum(image.key == lead.key and image.group == lead.group for image in candidates)
    return together >= limit(lead.key)


def due_in_s(
    now: float, ends_at: float, *, full: bool, coming: bool, lead_s: float, moment_s: float
) -> float | None:
    """Seconds until the next batch is sent. None: wait for more images.

    `ends_at`: when the running batch should end, on the clock of `now`. `full`: the next batch is full.
    `coming`: a fetch of more images is running. `lead_s`: how long before `ends_at` the next
    images must be fetched. `moment_s`: see `last_moment_s`.
    """
    if full:
        return max(0.0, ends_at - lead_s - now)
    left_s = ends_at - moment_s - now
    if left_s > 0:
        return left_s
    return None if coming else 0.0
