"""Ratios of neighbours, their median, and how sure it is. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Final

SURE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Ratio:
    """A median with its interval; `covers` is the chance that such an interval holds the true median."""

    median: float
    low: float
    high: float
    covers: float


def ratio(of: Sequence[float], over: Sequence[float]) -> Ratio:
    """The median of the ratios of pairs. The interval lies between the order statistics that are nearest to the middle and still
    hold the median in `SURE` of all cases, whatever the distribution (the sign test's); the outermost where there are too few."""
    found = sorted(one / other for one, other in zip(of, over, strict=True))
    count = len(found)
    rank = max((k for k in range(count // 2 + 1) if _covers(count, k) >= SURE), default=0)
    low, high = found[rank], found[count - 1 - rank]
    return Ratio(statistics.median(found), low, high, max(0.0, _covers(count, rank)))


def _covers(count: int, rank: int) -> float:
    """The chance that the median lies between the values of `rank`, counted from 0, from either end of `count`."""
    return 1.0 - 2 * sum(comb(count, below) for below in range(rank + 1)) / float(2**count)
