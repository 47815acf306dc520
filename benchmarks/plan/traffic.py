"""A day of requests, and which of them a device must draw: the cache and single-flight, exactly, without an event each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.lib import arrivals
from benchmarks.load import corpus

DAY_S: Final = 86_400.0
BINS: Final = 20_000
EXACT: Final = 20_000_000

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests in order of time. `leader[i]` is the request whose picture request i gets: itself if it is computed, -1 if
    it was drawn before the day began."""

    times: Floats
    leader: Ints

    @property
    def computed(self) -> Ints:
        """The indices of those that a device must draw."""
        return np.flatnonzero(self.leader == np.arange(len(self.leader)))


def day_times(per_day: float, duration_s: float, swing: float, rng: np.random.Generator) -> Floats:
    """A Poisson process whose rate follows the hours, `per_day` in a whole day; from midnight."""
    rate = per_day / DAY_S
    return arrivals.varying(lambda t: rate * arrivals.day(t / DAY_S, swing), duration_s, rng)


def zipf_exponent(share: float, universe: int, count: int) -> float:
    """`corpus.exponent_for` of universes too large for it: ranks in bins that grow with the rank."""
    edges = np.unique(np.round(np.geomspace(1, universe + 1, BINS)).astype(np.int64))
    middle, width = np.sqrt(edges[:-1] * (edges[1:] - 1.0)), np.diff(edges)
    low, high = 0.0, corpus.STEEPEST
    for _ in range(40):
        exponent = (low + high) / 2
        weights = middle**-exponent
        chances = weights / (weights * width).sum()
        distinct = -(np.expm1(-count * chances) * width).sum()
        low, high = (exponent, high) if 1 - distinct / count < share else (low, exponent)
    return (low + high) / 2


def popular(count: int, chances: Floats, rng: np.random.Generator) -> Ints:
    """`count` ranks, drawn by popularity."""
    found = np.searchsorted(np.cumsum(chances), rng.uniform(size=count))
    return np.minimum(found, len(chances) - 1).astype(np.int64)


def leaders(ranks: Ints, times: Floats, ttl_s: float) -> Ints:
    """For each request the index of the one that draws its picture: the first of its rank, and again the first of those that
    come later than `ttl_s` after the last that drew. `times` ascend."""
    order = np.argsort(ranks, kind="stable")
    sorted_ranks, sorted_times = ranks[order], times[order]
    first = np.concatenate([[True], sorted_ranks[1:] != sorted_ranks[:-1]])
    group = np.cumsum(first) - 1
    span = float(times[-1]) - float(times[0]) + ttl_s + 1.0
    position = group * span + (sorted_times - float(times[0]))
    draws = first.copy()
    at = np.flatnonzero(first)
    while len(at):
        after = np.searchsorted(position, position[at] + ttl_s, side="right")
        inside = after < len(position)
        at, after = at[inside], after[inside]
        at = after[group[after] == group[at]]
        draws[at] = True
    latest = np.maximum.accumulate(np.where(draws, np.arange(len(order)), -1))
    found = np.empty(len(order), np.int64)
    found[order] = order[latest]
    return found


def traffic(
    per_day: float,
    duration_s: float,
    repeats: float,
    ttl_s: float,
    rng: np.random.Generator,
    swing: float = arrivals.DAY_SWING,
    universe: int | None = None,
) -> Traffic:
    """`duration_s` seconds from midnight, with a cache that is as full as this traffic keeps it. `repeats` is the share of a
    day's requests that were made before on that day; there are `universe` different ones, by default as many as a day has
    requests. Beyond `EXACT` requests a day each is computed with the chance that it has at `EXACT`, for the ranks of more would
    not fit in memory."""
    times = day_times(per_day, duration_s, swing, rng)
    if repeats <= 0:
        return Traffic(times, np.arange(len(times)))
    if per_day > EXACT and not universe:
        share = _computed_share(repeats, duration_s, ttl_s, swing, rng)
        numbers = np.arange(len(times))
        return Traffic(times, np.where(rng.uniform(size=len(times)) < share, numbers, -1))
    universe = universe or round(per_day)
    chances = corpus.zipf(universe, zipf_exponent(repeats, universe, round(per_day)))
    kept, drawn = already_kept(chances * per_day / DAY_S, ttl_s, swing, rng)
    ranks = np.concatenate([kept, popular(len(times), chances, rng)])
    found = leaders(ranks, np.concatenate([drawn, times]), ttl_s)[len(kept) :] - len(kept)
    return Traffic(times, np.maximum(found, -1))


def _computed_share(
    repeats: float, duration_s: float, ttl_s: float, swing: float, rng: np.random.Generator
) -> float:
    few = traffic(EXACT, duration_s, repeats, ttl_s, rng, swing)
    return len(few.computed) / max(1, len(few.times))


def already_kept(rates: Floats, ttl_s: float, swing: float, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """(ranks whose pictures are kept at midnight, when they were drawn), in order of time. A picture that is asked for
    `rate` times a second is kept for `ttl_s` and then missing for 1 / rate on average (renewal theory), and was drawn when it
    was busy rather than when it was not."""
    kept = np.flatnonzero(rng.uniform(size=len(rates)) < rates * ttl_s / (1 + rates * ttl_s))
    grid = np.linspace(-ttl_s, 0, arrivals.GRID)
    passed = np.cumsum(arrivals.day(grid / DAY_S, swing))
    drawn = np.sort(np.interp(rng.uniform(passed[0], passed[-1], len(kept)), passed, grid))
    return rng.permutation(kept), drawn
