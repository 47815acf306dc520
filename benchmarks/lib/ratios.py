"""Ratios of neighbours, their median, how sure it is, and A/A controls. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Final

SURE: Final = 0.95

Floats = Sequence[float]


def ratios(of: Floats, over: Floats) -> list[float]:
    """The ratio of each pair."""
    return [one / other for one, other in zip(of, over, strict=True)]


def means(one: Floats, again: Floats) -> list[float]:
    """The mean of each pair: of an arm and its A/A twin."""
    return [(first + second) / 2 for first, second in zip(one, again, strict=True)]


def spread(values: Floats) -> float:
    """How far the largest is from the smallest."""
    return max(values) - min(values)


def control(of: Floats, over: Floats) -> dict[str, float]:
    """The figures of an A/A pair: the median of its ratios, and their spread."""
    found = ratios(of, over)
    return {"control_ratio": statistics.median(found), "control_spread": spread(found)}


@dataclass(frozen=True, slots=True)
class Ratio:
    """A median with its interval; `covers` is the chance that such an interval holds the true median."""

    median: float
    low: float
    high: float
    covers: float

    def figures(self, name: str) -> Mapping[str, float]:
        """The median and its interval under their names in a report."""
        return {name: self.median, f"{name}_low": self.low, f"{name}_high": self.high}


def ratio(of: Floats, over: Floats) -> Ratio:
    """The median of the ratios of pairs. The interval lies between the order statistics that are nearest to the middle and still
    hold the median in `SURE` of all cases, whatever the distribution (the sign test's); the outermost where there are too few."""
    found = sorted(ratios(of, over))
    count = len(found)
    rank = max((k for k in range(count // 2 + 1) if _covers(count, k) >= SURE), default=0)
    low, high = found[rank], found[count - 1 - rank]
    return Ratio(statistics.median(found), low, high, max(0.0, _covers(count, rank)))


def _covers(count: int, rank: int) -> float:
    """The chance that the median lies between the values of `rank`, counted from 0, from either end of `count`."""
    return 1.0 - 2 * sum(comb(count, below) for below in range(rank + 1)) / float(2**count)
