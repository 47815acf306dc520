"""How long a pass takes, and what memory it needs: a + b n, fitted online from the passes that ran."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from contracts.engine import BatchKey

FORGET: Final = 0.98
"""Weight that a batch keeps when the next one comes: some fifty batches count."""
TRUSTED_AFTER: Final = 5
MAX_KEYS: Final = 256
"""Kinds of passes that are remembered, the latest ones: sizes are the clients' choice, and there are thousands."""
DOUBTED_AFTER: Final = 16
"""Times in a row that images of a key were given up for what is predicted, without a pass of it between that could prove the prediction wrong."""
CLIP: Final = 3.0
"""A batch that deviates more than this many typical deviations counts as if it deviated that much (Huber 1964)."""


@dataclass(slots=True)
class _Fit:
    """Exponentially weighted least squares of seconds (or bytes) on images."""

    weight: float = 0.0
    n: float = 0.0
    nn: float = 0.0
    t: float = 0.0
    nt: float = 0.0
    deviation: float = 0.0
    seen: int = 0
    low: int = 0
    high: int = 0
    """The sizes that have been seen: of what lies beyond, the line knows nothing."""
    share: float = 0.0
    """Images of late: those of all passes since count ever less, of whichever key they were."""
    doubts: int = 0
    """Times that images were given up since the last pass."""

    @property
    def doubted(self) -> bool:
        return self.doubts >= DOUBTED_AFTER

    def line(self) -> tuple[float, float]:
        """(a, b): seconds for a batch of none, and for each image. Neither is ever negative."""
        mean_n, mean_t = self.n / self.weight, self.t / self.weight
        spread = self.nn / self.weight - mean_n * mean_n
        if spread < 1e-9:
            # One size alone tells nothing of the fixed part: all of it is taken for the images'.
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
    """Duration and memory of passes by key. Pure state; not for several threads."""

    _fits: dict[BatchKey, _Fit] = field(default_factory=dict)
    _memory: dict[BatchKey, _Fit] = field(default_factory=dict)

    def ran(self, key: BatchKey, images: int, seconds: float, memory_bytes: int | None = None) -> None:
        """A pass of `images` under `key` has taken `seconds` on the device, and at its peak `memory_bytes` of it."""
        fit = _latest(self._fits, key.work)
        if fit.doubted and seconds < _at(fit, images) / 2:
            fit = self._fits[key.work] = _Fit(share=fit.share)
        fit.doubts = 0
        fit.add(images, seconds)
        for each in self._fits.values():
            each.share *= FORGET
        fit.share += images
        if memory_bytes is not None:
            _latest(self._memory, key.work).add(images, float(memory_bytes))

    def seconds(self, key: BatchKey, images: int) -> float | None:
        """What a pass of `images` should take; None while nothing of the key has run, or what has run is in doubt."""
        fit = self._fits.get(key.work)
        return None if fit is None or fit.doubted else _at(fit, images)

    def deviation_s(self, key: BatchKey) -> float:
        """By how much a pass of `key` misses what `seconds` says, on average; 0.0 while nobody knows."""
        fit = self._fits.get(key.work)
        return 0.0 if fit is None else fit.deviation

    def gave_up(self, key: BatchKey) -> None:
        """Images of `key` were dropped unrun, since they could not be drawn in time by what `seconds` says. After a while it says
        nothing until the next pass: a first pass that was slow, and so long that no deadline allows for another, would be believed for ever."""
        if key.work in self._fits:
            self._fits[key.work].doubts += 1

    def memory_bytes(self, key: BatchKey, images: int) -> float | None:
        """What a pass of `images` should need at its peak; None while no device has told."""
        fit = self._memory.get(key.work)
        return None if fit is None else _at(fit, images)

    def steps_per_s(self, max_batch: int) -> float:
        """Images times steps per second under load, with full batches, averaged over the keys by how much of each has
        lately run; 0.0 before the first pass."""
        images = sum(fit.share for fit in self._fits.values())
        seconds = 0.0
        for fit in self._fits.values():
            a, b = fit.line()
            seconds += fit.share * (a + b * max_batch) / max_batch
        return images / seconds if seconds > 0 else 0.0

    def copy(self) -> CostModel:
        """What has been learnt so far, for another thread to `dump`."""
        return CostModel(
            {key: replace(fit) for key, fit in self._fits.items()},
            {key: replace(fit) for key, fit in self._memory.items()},
        )

    def dump(self) -> str:
        """All that was learnt, as JSON."""
        kinds = {"seconds": self._fits, "memory": self._memory}
        return json.dumps(
            {
                kind: [[asdict(key), asdict(fit)] for key, fit in fits.items() if fit.seen]
                for kind, fits in kinds.items()
            }
        )

    @classmethod
    def load(cls, text: str) -> CostModel:
        """What `dump` wrote. Raises `ValueError` for anything else."""
        model = cls()
        try:
            told = json.loads(text)
            for kind, fits in (("seconds", model._fits), ("memory", model._memory)):
                for key, fit in told[kind]:
                    fits[BatchKey(**key)] = _Fit(**fit)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError("not a cost model of this version") from error
        return model


def _latest(fits: dict[BatchKey, _Fit], key: BatchKey) -> _Fit:
    """The fit of `key`, now the last of all; the first makes way where there are too many."""
    fit = fits[key] = fits.pop(key) if key in fits else _Fit()
    if len(fits) > MAX_KEYS:
        del fits[next(iter(fits))]
    return fit


def _at(fit: _Fit, images: int) -> float:
    a, b = fit.line()
    return a + b * images
