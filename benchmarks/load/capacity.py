"""The highest rate that holds the SLO: doubled, or more while it is easy, until it breaks, then halved between. Pure but for the trial it is handed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.load import measure
from benchmarks.load.sample import Sample

SHARE: Final = 0.99
HORIZON_S: Final = 60.0
"""A latency that grows so fast that it breaks the SLO within this long is broken already: windows are short."""
EASY: Final = 0.1
"""Where the p99 is so little of the SLO, the limit is far."""
CLOSE: Final = 1.08
MAX_TRIALS: Final = 14
CONFIRMATIONS: Final = 3
"""Times that a rate is tried again, each lower than the one before, until one holds twice."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A window at one rate. `limited`: it says nothing of the server, the generator was too slow. `easy`: the limit is far."""

    rate: float
    within_slo: float
    p99_ms: float | None
    """None where nothing was answered."""
    throughput_per_s: float
    holds: bool
    limited: bool = False
    easy: bool = False


def judge(
    samples: list[Sample], rate: float, duration_s: float, slo_s: float, found: dict[str, float]
) -> Trial:
    """Whether the window held the SLO, and would have gone on holding it."""
    share = measure.within(samples, slo_s)
    grows = measure.growth(samples, duration_s) * HORIZON_S > slo_s
    p99_ms = found.get("p99_ms")
    return Trial(
        rate=rate,
        within_slo=share,
        p99_ms=p99_ms,
        throughput_per_s=found.get("throughput_per_s", 0.0),
        holds=share >= SHARE and not grows,
        limited=measure.bottleneck(found) is not None,
        easy=p99_ms is not None and p99_ms < EASY * slo_s * 1000,
    )


def too_few(rate: float) -> Trial:
    """A rate so low that its window would hold no requests: where all above it failed, it is not worth the wait."""
    return Trial(rate, 0.0, None, 0.0, holds=False)


def search(trial: Callable[[float], Trial], first: float, close: float = CLOSE) -> tuple[float, list[Trial]]:
    """(the highest rate that held, every trial). 0.0 if even the lowest tried did not. A generator that is too slow, as it is on
    one machine with an overloaded server, is tried again at lower rates; `generators_end` tells whether it was its end that was found."""
    trials: list[Trial] = []
    low, high, rate = 0.0, float("inf"), first
    while len(trials) < MAX_TRIALS and (low == 0.0 or high / low > close):
        done = trial(rate)
        trials.append(done)
        if done.holds:
            low = rate
        else:
            high = rate
        if high == float("inf"):
            rate = low * (4 if done.easy else 2)
        elif low == 0.0:
            rate = high / 2
        else:
            rate = (low * high) ** 0.5
    return low, trials


def confirm(trial: Callable[[float], Trial], found: float) -> tuple[float, bool, list[Trial]]:
    """(a rate at most `found`, whether it held when it was tried again, the trials of that).

    One short window that held may have been lucky: of many rates that were tried the luckiest is the highest. So the rate is
    tried again, and where it breaks a lower one, as far apart as the search's own steps.
    """
    trials: list[Trial] = []
    for _ in range(CONFIRMATIONS if found else 0):
        done = trial(found)
        trials.append(done)
        if done.holds:
            return found, True, trials
        found /= CLOSE
    return found, False, trials


def generators_end(trials: Sequence[Trial]) -> bool:
    """Whether the lowest rate that did not hold says nothing of the server."""
    broken = [each for each in trials if not each.holds]
    return bool(broken) and min(broken, key=lambda each: each.rate).limited
