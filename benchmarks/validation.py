"""Simulated against measured: the engine of the capacity plan against the real platform on this machine.

    python -m benchmarks.validation --json out.json --html out.html

Starts a private RabbitMQ and Redis, an API and a worker with the embedded model. A calibration measures what the simulation must
know: how long passes take by their size (from a run that fills the batches), what a request costs besides (one at a time, and
processor seconds under load). Then each load is run for real and simulated, with the same arrivals, and with passes that deviate from the
line as those of that run did; the errors are of the median, the 99th percentile and the throughput, the worst of all loads. Every load is run twice (A/A): how far two
measurements of the same differ is what no simulation can do better than.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from benchmarks import report
from benchmarks.load import measure
from benchmarks.load.embedded import platform
from benchmarks.load.generator import Generator, Target
from benchmarks.load.sample import Sample
from benchmarks.load.schedule import Load
from benchmarks.load.session import Result, Session
from benchmarks.plan.devices import Device
from benchmarks.plan.fleet import Simulation
from benchmarks.plan.state import Config
from benchmarks.plan.station import Floats, Station, way_in, way_out
from cli.platform import Platform

LOADS: Final = (0.4, 0.65, 0.85)
"""Shares of the measured capacity."""
MAX_BATCH: Final = 8
IDLE_RATE: Final = 3.0
SLO_S: Final = 5.0
COMPARED: Final = ("p50_ms", "p99_ms", "throughput_per_s")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the simulation knows of the platform: the line of its passes, how each pass deviated from it (as a ratio), the
    way around them, and images per second at saturation."""

    a_s: float
    b_s: float
    ratios: tuple[float, ...]
    station: Station
    capacity_per_s: float

    def of_run(self, samples: Sequence[Sample]) -> Calibration:
        """The same with the deviations of the passes that the samples tell of: how fast the machine was that minute is
        given, what the queue made of it is not."""
        found = passes(samples)
        return replace(
            self, ratios=tuple(seconds / (self.a_s + self.b_s * images) for images, seconds in found)
        )

    def taken(self, rng: np.random.Generator) -> Callable[[int], float]:
        """How long a pass of so many images takes this time, and what comes between it and the next."""

        def seconds(images: int) -> float:
            ratio = self.ratios[int(rng.integers(len(self.ratios)))]
            return (self.a_s + self.b_s * images) * ratio + self.station.gap_s

        return seconds


def passes(samples: Sequence[Sample]) -> list[tuple[int, float]]:
    """(images, seconds) of the passes that the samples tell of: one for each n that shared one of n."""
    seen: dict[tuple[int, float], int] = defaultdict(int)
    for each in measure.computed(samples):
        seen[(int(each.batch_size or 1), float(each.batch_ms or 0.0))] += 1
    return [
        (images, took_ms / 1000)
        for (images, took_ms), count in seen.items()
        for _ in range(max(1, round(count / images)))
    ]


def line(found: Sequence[tuple[int, float]]) -> tuple[float, float, tuple[float, ...]]:
    """(a, b, ratios): the line through the medians of each size, weighted by how often it ran, and every pass over it."""
    by_size: dict[int, list[float]] = defaultdict(list)
    for images, seconds in found:
        by_size[images].append(seconds)
    sizes = np.asarray(sorted(by_size), float)
    medians = np.asarray([float(np.median(by_size[int(size)])) for size in sizes])
    if len(sizes) == 1:
        a, b = 0.0, float(medians[0] / sizes[0])
    else:
        weights = np.sqrt([len(by_size[int(size)]) for size in sizes])
        b, a = (float(value) for value in np.polyfit(sizes, medians, 1, w=weights))
        a, b = max(0.0, a), max(1e-6, b)
    ratios = tuple(seconds / (a + b * images) for images, seconds in found)
    return a, b, ratios


def processor_s(running: Platform) -> float:
    """Processor seconds so far of all of the platform but the engine, of its services, and of our own processes."""
    ours = psutil.Process()
    engines = set()
    for child in running.children:
        if child.process is not None and child.name.startswith("worker"):
            engines |= {each.pid for each in psutil.Process(child.process.pid).children(recursive=True)}
    total = 0.0
    for each in [ours, *ours.children(recursive=True)]:
        if each.pid not in engines:
            times = each.cpu_times()
            total += times.user + times.system
    return total


def calibrate(session: Session, running: Platform, seconds: float) -> Calibration:
    """One at a time, then more and more until every batch is full."""
    idle = measure.computed(_all_answered(session.run(IDLE_RATE, seconds, "one at a time")))
    a, b, _ = line(passes(idle))
    guess = MAX_BATCH / (a + b * MAX_BATCH) if a else 2.0 / b
    before = processor_s(running)
    full = _all_answered(session.run(1.5 * guess, seconds, "full batches"))
    each_s = (processor_s(running) - before) / len(full)
    drawn = measure.computed(full)
    mixed = measure.computed(_all_answered(session.run(0.5 * guess, seconds, "mixed batches")))
    a, b, ratios = line(passes([*drawn, *mixed]))
    # Between the first and the last end the device never idled: what the passes do not fill is between them.
    ended = np.sort([sample.ended_s for sample in drawn])
    inner = ended[(ended > 0.25 * ended[-1]) & (ended < 0.95 * ended[-1])]
    rate = (len(inner) - 1) / (inner[-1] - inner[0])
    size = sum(n for n, _ in passes(drawn)) / len(passes(drawn))
    mean_s = float(np.mean([took for _, took in passes(drawn)]))
    gap_s = max(0.0, size / rate - mean_s)
    queued_s = float(np.median([(sample.queued_ms or 0) / 1000 for sample in idle]))
    added_s = float(np.median([sample.latency_s - (sample.batch_ms or 0) / 1000 for sample in idle]))
    out_s = max(0.0, added_s - queued_s - gap_s)
    # The processor's seconds lie on both ways as their lengths do; what is more than them is waiting for nobody.
    into = min(queued_s, each_s * queued_s / max(1e-9, queued_s + out_s))
    onto = min(out_s, each_s - into)
    station = Station(into, max(0.0, onto), queued_s - into, max(0.0, out_s - onto), gap_s)
    return Calibration(a, b, ratios, station, rate)


def simulate(times: Sequence[float], known: Calibration, duration_s: float, seed: int) -> dict[str, float]:
    """The figures of a simulated run with these arrivals."""
    rng = np.random.default_rng(seed)
    came = np.asarray(times)
    queued = way_in(came, known.station)
    order = np.argsort(queued, kind="stable")
    config = Config(Device("measured", known.a_s, known.b_s), MAX_BATCH, start=1)
    outcome = Simulation(queued[order].tolist(), config, rng, taken=known.taken(rng)).run()
    drawn: Floats = np.empty(len(came))
    drawn[order] = np.asarray(outcome.ended) - known.station.gap_s
    answered = way_out(drawn, known.station)
    return _compared((answered - came).tolist(), float(answered.max()), duration_s)


def _compared(latencies_s: Sequence[float], last_s: float, duration_s: float) -> dict[str, float]:
    p50, p99 = np.percentile(latencies_s, (50, 99)) * 1000
    return {
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "throughput_per_s": len(latencies_s) / max(duration_s, last_s),
    }


def _all_answered(done: Result) -> list[Sample]:
    """What is missing would falsify every comparison."""
    failed = measure.errors(done.samples)
    if failed:
        raise SystemExit(f"The platform did not answer all: {failed}")
    return done.samples


def error(simulated: float, measured: float) -> float:
    return abs(simulated / measured - 1)


def main() -> None:
    args = report.parser(__doc__).parse_args()
    calibration_s, duration_s = (5.0, 6.0) if args.quick else (40.0, 90.0)
    with (
        tempfile.TemporaryDirectory() as folder,
        platform(Path(folder), "rabbitmq", environ={"DARKROOM_MAX_BATCH": str(MAX_BATCH)}) as running,
        Generator() as generator,
    ):
        session = Session(generator, Target(running.url, {}), Load(repeats=0.0), SLO_S, 1, bar=False)
        session.run(IDLE_RATE, 3.0, "warming up")
        known = calibrate(session, running, calibration_s)
        rows, pairs = [], []
        for number, share in enumerate(LOADS):
            both = []
            for again in range(2):
                rate = share * known.capacity_per_s
                done = _all_answered(session.run(rate, duration_s, f"{share:.0%} of capacity"))
                last = max(each.ended_s for each in done)
                seen = _compared([each.latency_s for each in done], last, duration_s)
                told = simulate(
                    [each.at_s for each in done], known.of_run(done), duration_s, 10 * number + again
                )
                both.append(seen)
                rows.append({"share": share, "measured": seen, "simulated": told})
            pairs.append({name: error(both[0][name], both[1][name]) for name in COMPARED})
    figures = figures_of(rows, pairs, known)
    config = {
        "loads": LOADS,
        "seconds": duration_s,
        "cores": os.cpu_count(),
        "runs": rows,
        "station": asdict(known.station),
    }
    line_ = "validation: " + ", ".join(
        f"{name.removesuffix('_ms').removesuffix('_per_s')} within {figures[_figure(name)]:.1%}"
        for name in COMPARED
    )
    report.publish(
        args, "validation", config, figures, {"ratios": list(known.ratios)}, plot_of(rows), None, line_
    )


def _figure(name: str) -> str:
    return "sim_error_" + name.removesuffix("_ms").removesuffix("_per_s")


def figures_of(
    rows: Sequence[dict[str, Any]], pairs: Sequence[dict[str, float]], known: Calibration
) -> dict[str, float]:
    """The worst error of each, the worst difference of two equal measurements, and the calibration."""
    worst = {
        _figure(name): max(error(row["simulated"][name], row["measured"][name]) for row in rows)
        for name in COMPARED
    }
    mean = {
        f"{_figure(name)}_mean": math.fsum(
            error(row["simulated"][name], row["measured"][name]) for row in rows
        )
        / len(rows)
        for name in COMPARED
    }
    control = {
        f"control_{_figure(name).removeprefix('sim_error_')}": max(each[name] for each in pairs)
        for name in COMPARED
    }
    return {
        **worst,
        **mean,
        **control,
        "a_s": known.a_s,
        "b_s": known.b_s,
        "capacity_per_s": known.capacity_per_s,
        "added_ms": 1000 * sum(asdict(known.station).values()),
    }


def plot_of(rows: Sequence[dict[str, Any]]) -> Any:
    """Measured and simulated, by the load."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(1, 3, figsize=(13, 4))
    for axes, name in zip(grid, COMPARED, strict=True):
        for kind, mark in (("measured", "o"), ("simulated", "x")):
            axes.plot([row["share"] for row in rows], [row[kind][name] for row in rows], mark, label=kind)
        axes.set(title=name, xlabel="load over capacity", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


if __name__ == "__main__":
    main()
