"""Duration and memory of a batch as a + b n for n images, fitted online from the batches that ran."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from contracts.engine import BatchKey

FORGET: Final = 0.98
"""Weight that a batch keeps when the next one arrives: about fifty batches count."""
TRUSTED_AFTER: Final = 5
"""Batches of a key after which outliers are clipped."""
MAX_KEYS: Final = 256
"""How many keys are remembered, the latest ones. Clients choose the sizes, and there are thousands."""
DOUBTED_AFTER: Final = 16
"""After this many images of a key were given up in a row, without a batch between,
the prediction is in doubt."""
CLIP: Final = 3.0
"""A batch that deviates more than this many typical deviations is clipped to that (Huber 1964)."""


@dataclass(slots=True)
class _Fit:
    """Exponentially weighted least squares of seconds (or bytes) on images.

    The fields `weight`, `n`, `nn`, `t` and `nt` are the weighted sums of 1, images, squared images, seconds
    and images times seconds.
    """

    weight: float = 0.0
    n: float = 0.0
    nn: float = 0.0
    t: float = 0.0
    nt: float = 0.0
    deviation: float = 0.0
    seen: int = 0
    low: int = 0
    high: int = 0
    """`low` and `high` are the smallest and largest batch so far. Beyond them the line is a guess."""
    share: float = 0.0
    """Recent images of this key. The sum decays with every batch of any key."""
    doubts: int = 0
    """Images given up since the last batch."""

    @property
    def doubted(self) -> bool:
        return self.doubts >= DOUBTED_AFTER

    def line(self) -> tuple[float, float]:
        """(a, b): the fixed seconds of a batch, and the seconds per image. Neither is negative."""
        mean_n, mean_t = self.n / self.weight, self.t / self.weight
        spread = self.nn / self.weight - mean_n * mean_n
        if spread < 1e-9:
            # One size alone does not show the fixed part: all time is attributed to the images.
            return 0.0, mean_t / mean_n
        slope = (self.nt / self.weight - mean_n * mean_t) / spread
        slope = min(max(slope, 0.0), mean_t / mean_n)
        return mean_t - slope * mean_n, slope

    def add(self, images: int, seconds: float) -> None:
        known = self.low <= images <= self.high
        self.low = min(self.low or images, images)
        self.high = max(self.high, images)
        if self.seen >= TRUSTED_AFTER and known:
            a, b = self.line()
            expected = a + b * images
            room = CLIP * max(self.deviation, 0.02 * expected)
            self.deviation = FORGET * self.deviation + (1 - FORGET) * min(abs(seconds - expected), room)
            seconds = min(max(seconds, expected - room), expected + room)
        elif self.seen and known:
            a, b = self.line()
            self.deviation = max(self.deviation, abs(seconds - a - b * images))
        for name, value in (
            ("weight", 1.0),
            ("n", float(images)),
            ("nn", float(images * images)),
            ("t", seconds),
            ("nt", images * seconds),
        ):
            setattr(self, name, getattr(self, name) * FORGET + value)
        self.seen += 1


@dataclass(slots=True)
class CostModel:
    """Duration and memory of batches by key. Pure state; not thread-safe."""

    _fits: dict[BatchKey, _Fit] = field(default_factory=dict)
    _memory: dict[BatchKey, _Fit] = field(default_factory=dict)

    def ran(self, key: BatchKey, images: int, seconds: float, memory_bytes: int | None = None) -> None:
        """Record a batch of `images` under `key`: its `seconds` on the device and its peak `memory_bytes`."""
        fit = _latest(self._fits, key.work)
        if fit.doubted and seconds < _at(fit, images) / 2:
            fit = self._fits[key.work] = _Fit(share=fit.share)
        fit.doubts = 0
        fit.add(images, seconds)
        for other in self._fits.values():
            other.share *= FORGET
        fit.share += images
        if memory_bytes is not None:
            _latest(self._memory, key.work).add(images, float(memory_bytes))

    def seconds(self, key: BatchKey, images: int) -> float | None:
        """The predicted seconds of a batch of `images`; None without a batch of the key,
        or while it is in doubt."""
        fit = self._fits.get(key.work)
        return None if fit is None or fit.doubted else _at(fit, images)

    def deviation_s(self, key: BatchKey) -> float:
        """The mean error of `seconds` for batches of `key`; 0.0 without a batch of the key."""
        fit = self._fits.get(key.work)
        return 0.0 if fit is None else fit.deviation

    def gave_up(self, key: BatchKey) -> None:
        """Record that an image of `key` was dropped, since by `seconds` it could not be drawn in time.

        After `DOUBTED_AFTER` of these, `seconds` returns None until the next batch. Otherwise a slow first batch
        could be believed for ever: if no deadline allows such a batch, no batch would ever correct it.
        """
        if key.work in self._fits:
            self._fits[key.work].doubts += 1

    def memory_bytes(self, key: BatchKey, images: int) -> float | None:
        """The predicted peak memory of a batch of `images`, in bytes; None where no device has reported it."""
        fit = self._memory.get(key.work)
        return None if fit is None else _at(fit, images)

    def steps_per_s(self, max_batch: int) -> float:
        """Denoising steps per second under load, with full batches; 0.0 before the first batch.

        The mean over all keys, weighted by how much of each key has run recently.
        """
        images = sum(fit.share for fit in self._fits.values())
        seconds = 0.0
        for fit in self._fits.values():
            a, b = fit.line()
            seconds += fit.share * (a + b * max_batch) / max_batch
        return images / seconds if seconds > 0 else 0.0

    def copy(self) -> CostModel:
        """A copy of the model, for another thread to `dump`."""
        return CostModel(
            {key: replace(fit) for key, fit in self._fits.items()},
            {key: replace(fit) for key, fit in self._memory.items()},
        )

    def dump(self) -> str:
        """The whole model, as JSON."""
        kinds = {"seconds": self._fits, "memory": self._memory}
        return json.dumps(
            {
                kind: [[asdict(key), asdict(fit)] for key, fit in fits.items() if fit.seen]
                for kind, fits in kinds.items()
            }
        )

    @classmethod
    def load(cls, text: str) -> CostModel:
        """The model that `dump` wrote. Raises `ValueError` for anything else."""
        model = cls()
        try:
            document = json.loads(text)
            for kind, fits in (("seconds", model._fits), ("memory", model._memory)):
                for key, fit in document[kind]:
                    fits[BatchKey(**key)] = _Fit(**fit)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError("not a cost model of this version") from error
        return model


def _latest(fits: dict[BatchKey, _Fit], key: BatchKey) -> _Fit:
    """The fit of `key`, moved to the end. The oldest fit is dropped if there are too many."""
    fit = fits[key] = fits.pop(key) if key in fits else _Fit()
    if len(fits) > MAX_KEYS:
        del fits[next(iter(fits))]
    return fit


def _at(fit: _Fit, images: int) -> float:
    a, b = fit.line()
    return a + b * images
