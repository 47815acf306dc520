"""The runs of a platform that the simulation is compared with: every load comes at the same times in every round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.lib import arrivals
from benchmarks.load import measure
from benchmarks.load.generator import Generator, Target
from benchmarks.load.sample import Sample
from benchmarks.load.schedule import Load
from benchmarks.load.session import Result, Session
from benchmarks.plan.calibration import busy
from benchmarks.plan.validating import Round

BURST: Final = 3.0
LOADS: Final = (0.5, 0.8, BURST)
"""Shares of the measured capacity. The last comes for a third as long, and keeps the device full until it is drawn."""
IDLE_RATE: Final = 2.5
SLO_S: Final = 5.0
EPOCHS: Final = 1000
"""So many runs of a load are other requests than those of the next load."""


class Bench:
    """The platform's loads: every load comes at the same times in every round."""

    def __init__(self, generator: Generator, url: str, folder: Path, base: Load) -> None:
        self._generator = generator
        self._target = Target(url, {})
        self._folder = folder
        self._base = base
        self._sessions = 0

    def session(self, **changes: Any) -> Session:
        self._sessions += 1
        load = replace(self._base, **changes)
        return Session(self._generator, self._target, load, SLO_S, self._sessions * EPOCHS, bar=False)

    def traced(self, rate: float, duration_s: float, seed: int) -> Session:
        """A session whose every run has the same Poisson arrivals."""
        path = self._folder / f"arrivals-{seed}.csv"
        times = arrivals.poisson(rate, duration_s, np.random.default_rng(seed))
        path.write_text("\n".join(f"{each:.6f}" for each in times))
        return self.session(arrivals="trace", trace=path)


def answered(done: Result) -> list[Sample]:
    """What is missing would falsify every comparison."""
    failed = measure.errors(done.samples)
    if failed:
        raise SystemExit(f"The platform did not answer all: {failed}")
    return done.samples


def run(bench: Bench, count: int, seconds: float) -> tuple[list[Round], list[float], float]:
    """(rounds, seconds of each load, capacity in requests per second)."""
    probe = bench.session()
    probe.run(IDLE_RATE, 3.0, "warming up")
    first = measure.figures(answered(probe.run(20.0, 3.0, "a look")), 3.0, SLO_S, 0.0)["throughput_per_s"]
    capacity, _ = busy(answered(probe.run(3.0 * first, 4.0, "capacity")))
    idle = bench.session(arrivals="constant")
    durations = [seconds / BURST if share == BURST else seconds for share in LOADS]
    sessions = [
        bench.traced(share * capacity, duration, seed)
        for seed, (share, duration) in enumerate(zip(LOADS, durations, strict=True))
    ]
    rounds = []
    for number in range(count):
        alone = answered(idle.run(IDLE_RATE, max(4.0, seconds / 3), "one at a time"))
        loads = []
        for session, share, duration in zip(sessions, LOADS, durations, strict=True):
            name = f"round {number + 1}, {share:g} of capacity"
            one, other = (answered(session.run(share * capacity, duration, name)) for _ in range(2))
            loads.append((one, other))
        rounds.append(Round(alone, tuple(loads)))
        print(f"round {number + 1} of {count}", flush=True)
    return rounds, durations, capacity
