"""How fast a worker is, from the batches it has run."""

from __future__ import annotations

HALF_LIFE_BATCHES = 8


class Throughput:
    """Images per second of busy time: an exponentially weighted mean over the last batches."""

    def __init__(self) -> None:
        self._images = 0.0
        self._seconds = 0.0

    def batch(self, images: int, seconds: float) -> None:
        """A batch of `images` has taken `seconds` on the device."""
        keep = 0.5 ** (1 / HALF_LIFE_BATCHES)
        self._images = self._images * keep + images
        self._seconds = self._seconds * keep + seconds

    def images_per_s(self) -> float:
        """The present estimate; 0.0 before the first batch."""
        return self._images / self._seconds if self._seconds > 0 else 0.0
