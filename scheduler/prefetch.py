"""What a worker brings for its next pass: how many images, and how long before the present pass ends.

Both are a compromise. Images in hand can no longer yield to a newcomer, nor be run by another worker, so few of them and late;
but a device must not wait for the store, nor run half a batch while the queue is full.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contracts.engine import BatchKey

BATCHES_WAITING: Final = 2
"""Bound of what waits in hand, in full batches, where many keys must be gathered to fill a pass of one."""
BATCHES_IN_HAND: Final = 4
"""Bound of all that a worker holds, in full batches: what waits, and images in the making that share the device by turns."""

LEAD_S: Final = 0.01
LEAD_SHARE: Final = 0.1
"""A pass may end before its time by this share of it."""
NEWEST: Final = 0.1
"""Weight of the newest journey to the store in the mean, and in the mean deviation."""
DEVIATIONS: Final = 2.0
OUTLIER: Final = 4.0
OUTLIER_S: Final = 0.05
"""A journey counts as no longer than the mean, so many deviations, and this."""


@dataclass(frozen=True, slots=True)
class QueuedImage:
    """An image in hand that will need the pass after the present one."""

    key: BatchKey
    tag: float
    begun: bool


def slots_to_fetch(hand: Sequence[QueuedImage], ending: int, max_batch: int) -> int:
    """How many more images to bring, so that the next pass is full; `ending` are those on their last step.

    The key of the smallest tag in hand will lead that pass. With one key that is a batch less what waits. With several,
    those that come are expected to be of that key as often as those that wait are.
    """
    waiting = [image for image in hand if not image.begun]
    bound = min(BATCHES_WAITING * max_batch - len(waiting), BATCHES_IN_HAND * max_batch - len(hand) - ending)
    if not hand:
        return min(max_batch, bound)
    lead = min(hand, key=lambda image: image.tag).key
    ready = sum(image.key == lead for image in waiting)
    missing = max_batch - ready
    if 0 < ready < len(waiting):
        missing = math.ceil(missing * len(waiting) / ready)
    return max(0, min(missing, bound))


@dataclass(slots=True)
class FetchLatency:
    """How long before a pass should end the images of the next are wanted: as long as a journey to the store takes, by mean
    and mean deviation (Jacobson, SIGCOMM 1988), and a share of the pass."""

    mean_s: float = 0.0
    deviation_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """A journey to the store has taken that long. One alone that is far off, as when it waited for something else, moves the lead
        little; many move it all the same."""
        seconds = min(seconds, self.mean_s + OUTLIER * self.deviation_s + OUTLIER_S)
        error = seconds - self.mean_s
        self.mean_s += NEWEST * error
        self.deviation_s += NEWEST * (abs(error) - self.deviation_s)

    def seconds(self, pass_s: float) -> float:
        """The lead for a pass that should take `pass_s`."""
        return max(LEAD_S, self.mean_s + DEVIATIONS * self.deviation_s) + LEAD_SHARE * pass_s
