"""One load after another against one server: the generator, the watch and the progress bar around them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from tqdm import tqdm

from benchmarks.load import capacity, measure
from benchmarks.load.capacity import Trial
from benchmarks.load.ceiling import constant_server
from benchmarks.load.generator import Generator, Target
from benchmarks.load.sample import Sample
from benchmarks.load.schedule import Load, Schedule, schedule
from benchmarks.load.watch import Watch

FEWEST: Final = 10
"""A window of fewer requests tells nothing of a rate."""
CEILING_SLO_S: Final = 0.05
CEILING_FIRST: Final = 200.0


class NoRequests(ValueError):
    """The rate and the duration are so small that nothing would be sent."""


@dataclass(frozen=True, slots=True)
class Result:
    """A load that has run. `figures` as of `measure.figures`; `series` as of `Watch`."""

    planned: Schedule
    samples: list[Sample]
    figures: dict[str, float]
    series: dict[str, list[tuple[float, float]]]


class Session:
    """Runs loads against `target`; every one with requests that none before it made. Samples of all are kept."""

    def __init__(
        self, generator: Generator, target: Target, load: Load, slo_s: float, first_epoch: int, bar: bool
    ) -> None:
        self._generator = generator
        self._target = target
        self._load = load
        self._slo_s = slo_s
        self._epochs = itertools.count(first_epoch)
        self._bar = bar
        self.all: list[Sample] = []

    def run(self, rate: float, duration_s: float, what: str) -> Result:
        """`duration_s` seconds at `rate`, and the answers waited for. Raises `NoRequests` for a load without any."""
        planned = schedule(self._load, rate, duration_s, next(self._epochs))
        if not planned.requests:
            raise NoRequests(f"{rate:g} requests per second for {duration_s:g} s are none at all.")
        key = next(iter(self._target.keys.values()), None)
        with Watch(self._target.url, key) as watch, _Bar(len(planned.requests), what, self._bar) as tick:
            sent = self._generator.run(planned.requests, self._target, tick)
        found = measure.figures(sent.samples, duration_s, self._slo_s, sent.cpu_share)
        self.all += sent.samples
        return Result(planned, sent.samples, found, watch.series)

    def trial(self, duration_s: float) -> Callable[[float], Trial]:
        """A window of `duration_s` for `capacity.search`."""

        def window(rate: float) -> Trial:
            # A window of few requests cannot tell a share of one in a hundred.
            seconds = max(duration_s, min(4 * duration_s, 100 / rate))
            if rate * seconds < FEWEST:
                return capacity.too_few(rate)
            done = self.run(rate, seconds, f"trying {rate:.3g}/s")
            return capacity.judge(done.samples, rate, seconds, self._slo_s, done.figures)

        return window


def ceiling(generator: Generator, seconds: float, bar: bool) -> float:
    """The rate at which the generator can still send on time, to a server that does nothing."""
    with constant_server() as url:
        session = Session(generator, Target(url, {}), Load(repeats=0.0), CEILING_SLO_S, 0, bar)
        session.run(CEILING_FIRST, 1.0, "warming up")

        def trial(rate: float) -> Trial:
            if rate * seconds < FEWEST:
                return capacity.too_few(rate)
            done = session.run(rate, seconds, f"the generator's ceiling: {rate:.0f}/s")
            judged = capacity.judge(done.samples, rate, seconds, CEILING_SLO_S, done.figures)
            late = done.figures["generator_lag_p99_ms"] > measure.LATE_S * 1000
            return Trial(
                **{**asdict(judged), "holds": judged.holds and not late, "limited": False, "easy": False}
            )

        found, _ = capacity.search(trial, CEILING_FIRST, close=1.2)
    return found


class _Bar:
    """A progress bar as a context that answers the generator's tick; silent if not `shown`."""

    def __init__(self, total: int, what: str, shown: bool) -> None:
        self._bar: Any = tqdm(total=total, desc=what, unit="req", disable=not shown, leave=False)

    def __enter__(self) -> Callable[[int, int, int], None]:
        return self._tick

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _tick(self, sent: int, ended: int, failed: int) -> None:
        self._bar.set_postfix_str(f"{sent - ended} in flight, {failed} failed", refresh=False)
        self._bar.update(ended - self._bar.n)
