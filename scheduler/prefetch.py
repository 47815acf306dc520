"""How many images a worker fetches for its next batch, and how long before the current batch ends.

Both are a compromise. A fetched image can no longer yield to a newcomer, and no other worker can run it.
So a worker should fetch few images, and late. But the device must not wait for the store, nor run half
a batch while the queue is full.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contracts.engine import BatchKey

BATCHES_WAITING: Final = 2
"""Limit of the fetched images that wait, in full batches.

Many keys may be needed to fill a batch of one key.
"""
BATCHES_HELD: Final = 4
"""Limit of all images that a worker holds, in full batches: waiting ones,
and active ones that take turns on the device."""

LEAD_S: Final = 0.01
"""The shortest lead time, in seconds."""
LEAD_SHARE: Final = 0.1
"""A batch may end earlier than predicted by this share of it."""
NEWEST: Final = 0.1
"""Weight of the newest fetch in the mean latency and in its mean deviation."""
DEVIATIONS: Final = 2.0
OUTLIER: Final = 4.0
OUTLIER_S: Final = 0.05
"""A fetch counts at most as the mean + `OUTLIER` deviations + `OUTLIER_S` seconds."""


@dataclass(frozen=True, slots=True)
class QueuedImage:
    """An image on this worker that will need the batch after the current one."""

    key: BatchKey
    tag: float
    begun: bool


def slots_to_fetch(images: Sequence[QueuedImage], ending: int, max_batch: int) -> int:
    """How many more images to fetch, so that the next batch is full.

    `images` are the images on this worker; `ending` counts those on their last step. The key of the smallest tag in
    `images` will lead the next batch. With one key, the answer is a batch minus the waiting images. With
    several, the fetched images are expected to have that key as often as the waiting ones.
    """
    waiting = [image for image in images if not image.begun]
    bound = min(BATCHES_WAITING * max_batch - len(waiting), BATCHES_HELD * max_batch - len(images) - ending)
    if not images:
        return min(max_batch, bound)
    first_key = min(images, key=lambda image: image.tag).key
    ready = sum(image.key == first_key for image in waiting)
    missing = max_batch - ready
    if 0 < ready < len(waiting):
        missing = math.ceil(missing * len(waiting) / ready)
    return max(0, min(missing, bound))


@dataclass(slots=True)
class FetchLatency:
    """Tracks how long a fetch from the store takes, and how early the next one must start.

    The lead time is the mean latency plus a multiple of its mean deviation (Jacobson, SIGCOMM 1988), plus a
    share of the batch.
    """

    mean_s: float = 0.0
    deviation_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """Record that a fetch took `seconds`.

        A single outlier moves the lead time little; many outliers do move it.
        """
        seconds = min(seconds, self.mean_s + OUTLIER * self.deviation_s + OUTLIER_S)
        error = seconds - self.mean_s
        self.mean_s += NEWEST * error
        self.deviation_s += NEWEST * (abs(error) - self.deviation_s)

    def seconds(self, batch_s: float) -> float:
        """The lead time in seconds, for a batch that should take `batch_s`."""
        return max(LEAD_S, self.mean_s + DEVIATIONS * self.deviation_s) + LEAD_SHARE * batch_s
