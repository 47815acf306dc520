"""When requests come: points in time, drawn before the load begins, so that a slow server cannot slow them down.

All answer seconds from the start, ascending, below `duration_s`. Rates are requests per second.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]

PATTERNS: Final = ("poisson", "constant", "gamma", "ramp", "diurnal", "trace")
GRID: Final = 4096
DAY_SWING: Final = 0.5
"""The busiest moment of a day has this much more than the mean, the quietest this much less."""


def constant(rate: float, duration_s: float) -> Times:
    """Equal gaps."""
    return np.arange(round(rate * duration_s), dtype=float) / rate


def poisson(rate: float, duration_s: float, rng: np.random.Generator) -> Times:
    """Independent clients: exponential gaps."""
    return np.sort(rng.uniform(0, duration_s, rng.poisson(rate * duration_s)))


def gamma(rate: float, duration_s: float, rng: np.random.Generator, burstiness: float) -> Times:
    """Gamma gaps whose squared coefficient of variation is `burstiness`: 1 is Poisson, more comes in bursts."""
    expected = rate * duration_s
    count = int(expected + 10 * (expected * max(burstiness, 1.0)) ** 0.5 + 10)
    times = np.cumsum(rng.gamma(1 / burstiness, burstiness / rate, count))
    # The first gap is cut at random: an observer does not arrive with the first request.
    times -= times[0] * rng.uniform()
    return np.asarray(times[times < duration_s])


def varying(intensity: Callable[[Times], Times], duration_s: float, rng: np.random.Generator) -> Times:
    """A Poisson process of rate `intensity(t)`, by the change of time that makes it one of rate 1 (Cinlar 1975)."""
    grid = np.linspace(0, duration_s, GRID)
    rates = intensity(grid)
    passed = np.concatenate([[0.0], np.cumsum((rates[1:] + rates[:-1]) / 2 * np.diff(grid))])
    count = rng.poisson(passed[-1])
    return np.asarray(np.interp(np.sort(rng.uniform(0, passed[-1], count)), passed, grid))


def ramp(rate: float, duration_s: float, rng: np.random.Generator, start: float = 0.0) -> Times:
    """A rate that climbs in a line from `start` to `rate`."""
    return varying(lambda t: start + (rate - start) * t / duration_s, duration_s, rng)


def day(share: Times, swing: float = DAY_SWING) -> Times:
    """The rate over its mean at each `share` of a day (0 to 1, from midnight): quietest at half past four, busiest at half
    past seven in the evening, `swing` from the mean at both. The second harmonic makes the morning steep."""
    first = np.cos(2 * np.pi * (share - 18 / 24))
    second = 0.25 * np.cos(4 * np.pi * (share - 21 / 24))
    return np.asarray(1 + swing * (first + second) / _DAY_PEAK)


_DAY_PEAK: Final = 1.1007


def diurnal(rate: float, duration_s: float, rng: np.random.Generator) -> Times:
    """One day of mean `rate`, pressed into `duration_s`."""
    return varying(lambda t: rate * day(t / duration_s), duration_s, rng)


def trace(path: Path, duration_s: float, rate: float | None = None) -> Times:
    """The first column of a CSV file (or a plain list) as seconds, in any order, from its earliest on; stretched to `rate`
    if one is given. Lines that do not begin with a number are headings. Raises `ValueError` for a file without times."""
    found = []
    with path.open(newline="", errors="replace") as lines:
        for row in csv.reader(lines):
            try:
                at_s = float(row[0])
            except (ValueError, IndexError):
                continue
            if math.isfinite(at_s):
                found.append(at_s)
    if not found:
        raise ValueError(f"{path} holds no times: its first column must be seconds.")
    times = np.sort(np.asarray(found))
    times -= times[0]
    if rate is not None and times[-1] > 0:
        times *= (len(times) - 1) / rate / times[-1]
    return times[times < duration_s]


def make(
    pattern: str,
    rate: float,
    duration_s: float,
    rng: np.random.Generator,
    burstiness: float = 4.0,
    path: Path | None = None,
) -> Times:
    """The arrivals of a named pattern. Raises `ValueError` for an unknown one."""
    match pattern:
        case "constant":
            return constant(rate, duration_s)
        case "poisson":
            return poisson(rate, duration_s, rng)
        case "gamma":
            return gamma(rate, duration_s, rng, burstiness)
        case "ramp":
            return ramp(rate, duration_s, rng)
        case "diurnal":
            return diurnal(rate, duration_s, rng)
        case "trace" if path is not None:
            return trace(path, duration_s, rate)
    raise ValueError(f"Arrivals are one of {', '.join(PATTERNS)}; a trace needs its file.")
