"""Simulated against measured: the engine of the capacity plan against the real platform on this machine.

    python -m benchmarks.validation --json out.json --html out.html
    python -m benchmarks.validation --pace 50+40       # a device that takes 50 + 40 n ms: an A100, to the scheduler

Starts a private RabbitMQ and Redis, an API and a worker with the embedded model, and runs rounds: one request at a time, then every
load twice, one right after the other, always with the same arrivals. Each run is simulated with what others tell: how long passes
take and the ways of a request around its pass by all runs but itself, and how they deviate by its twin, which met about the same
machine (`benchmarks/plan/calibration.py`). Nothing is fitted to the run that it is compared with. Who waits for which pass, and how
full it is, is the simulation's own, by the platform's scheduler.

The errors are those of the median, the 99th percentile and the throughput: of twins the geometric mean, which a machine that was
slower in one of them does not move; of each load the median over rounds; and of the loads the worst. `control_*` is what one twin
is off the other (A/A): a single simulation cannot be nearer to a measurement than another measurement is.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import report
from benchmarks.load import arrivals, measure
from benchmarks.load.embedded import platform
from benchmarks.load.generator import Generator, Target
from benchmarks.load.sample import Sample
from benchmarks.load.schedule import Load
from benchmarks.load.session import Result, Session
from benchmarks.plan.calibration import Calibration, busy, calibrated, simulate

BURST: Final = 3.0
LOADS: Final = (0.5, 0.8, BURST)
"""Shares of the measured capacity. The last comes for a third as long, and keeps the device full until it is drawn."""
MAX_BATCH: Final = 8
IDLE_RATE: Final = 2.5
SLO_S: Final = 5.0
EPOCHS: Final = 1000
"""So many runs of a load are other requests than those of the next load."""
DRAWS: Final = 9
"""Simulations of a run: what is told of them is their median, so that their own chance tells nothing."""
COMPARED: Final = ("p50_ms", "p99_ms", "throughput_per_s")

Compared = dict[str, float]
Twins = tuple[list[Sample], list[Sample]]


@dataclass(frozen=True, slots=True)
class Round:
    """Samples of one request at a time, and of the twins of each load."""

    idle: list[Sample]
    loads: tuple[Twins, ...]


def compared(latencies_s: Sequence[float], last_s: float, duration_s: float) -> Compared:
    p50, p99 = np.percentile(latencies_s, (50, 99)) * 1000
    return {
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "throughput_per_s": len(latencies_s) / max(duration_s, last_s),
    }


def measured(samples: Sequence[Sample], duration_s: float) -> Compared:
    return compared([each.latency_s for each in samples], max(each.ended_s for each in samples), duration_s)


def calibration_for(rounds: Sequence[Round], number: int, load: int, twin: int) -> Calibration:
    """What all runs but this one tell of it, and the other twin of how things deviate."""
    this = rounds[number].loads[load]
    others = [run for each in rounds for twins in each.loads for run in twins if run is not this[twin]]
    full = [run for each in rounds for run in each.loads[-1] if run is not this[twin]]
    return calibrated([each.idle for each in rounds], others, full, this[1 - twin])


def simulated(samples: Sequence[Sample], known: Calibration, duration_s: float, seed: int) -> Compared:
    """The median of the figures of `DRAWS` simulated runs with the arrivals of these samples."""
    times = [each.at_s for each in samples]
    found = []
    for draw in range(DRAWS):
        latencies = simulate(times, known, MAX_BATCH, seed * DRAWS + draw)
        found.append(compared(latencies.tolist(), float((np.asarray(times) + latencies).max()), duration_s))
    return {name: float(np.median([each[name] for each in found])) for name in COMPARED}


def compare(
    rounds: Sequence[Round], shares: Sequence[float], durations: Sequence[float]
) -> list[dict[str, Any]]:
    """Every run of every load, measured and simulated; in the order of loads, of rounds in a load, and of twins."""
    rows: list[dict[str, Any]] = []
    for load, share in enumerate(shares):
        for number, twin in product(range(len(rounds)), (0, 1)):
            samples = rounds[number].loads[load][twin]
            known = calibration_for(rounds, number, load, twin)
            rows.append(
                {
                    "share": share,
                    "round": number,
                    "twin": twin,
                    "measured": measured(samples, durations[load]),
                    "simulated": simulated(samples, known, durations[load], len(rows)),
                    "told": {"a_s": known.a_s, "b_s": known.b_s, "gap_s": known.gap_s},
                }
            )
    return rows


def ratios(rows: Sequence[dict[str, Any]], share: float, name: str) -> tuple[list[float], list[float]]:
    """(simulated over measured, the second twin over the first) of one figure of one load, by round."""
    of = [row for row in rows if row["share"] == share]
    first, second = ([row for row in of if row["twin"] == twin] for twin in (0, 1))
    pairs = list(zip(first, second, strict=True))
    sims = [
        math.sqrt(math.prod(row["simulated"][name] / row["measured"][name] for row in pair)) for pair in pairs
    ]
    return sims, [after["measured"][name] / before["measured"][name] for before, after in pairs]


def _figure(name: str) -> str:
    return name.removesuffix("_ms").removesuffix("_per_s")


def figures_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of every load the median over rounds, of the loads the worst; and how far twins differ."""
    shares = sorted({row["share"] for row in rows})
    found: dict[str, float] = {}
    for name in COMPARED:
        by_load = {share: float(np.median(ratios(rows, share, name)[0])) - 1 for share in shares}
        found[f"sim_error_{_figure(name)}"] = max(abs(each) for each in by_load.values())
        found |= {
            f"sim_over_measured_{_figure(name)}_at_{share:g}": 1 + each for share, each in by_load.items()
        }
    for name in COMPARED:
        pairs = [np.abs(np.asarray(ratios(rows, share, name)[1]) - 1) for share in shares]
        found[f"control_{_figure(name)}"] = max(float(np.median(each)) for each in pairs)
    for name in ("a_s", "b_s", "gap_s"):
        found[name] = float(np.median([row["told"][name] for row in rows]))
    return found


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


def _table(rows: Sequence[dict[str, Any]]) -> report.Table:
    heads = [
        "load",
        "round",
        "twin",
        *(f"{name} {kind}" for name in COMPARED for kind in ("measured", "simulated")),
    ]
    return [
        heads,
        *(
            [
                f"{row['share']:g}",
                row["round"] + 1,
                row["twin"] + 1,
                *(f"{row[kind][name]:.4g}" for name in COMPARED for kind in ("measured", "simulated")),
            ]
            for row in rows
        ),
    ]


def plot_of(rows: Sequence[dict[str, Any]]) -> Any:
    """Measured and simulated, by the load; a mark for each run."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(1, 3, figsize=(14, 4))
    figure.subplots_adjust(wspace=0.3)
    shares = sorted({row["share"] for row in rows})
    labels = {"p50_ms": "p50, ms", "p99_ms": "p99, ms", "throughput_per_s": "answered, requests/s"}
    for axes, name in zip(grid, COMPARED, strict=True):
        for kind, mark, shift in (("measured", "o", -0.08), ("simulated", "x", 0.08)):
            places = [shares.index(row["share"]) + shift for row in rows]
            axes.plot(places, [row[kind][name] for row in rows], mark, label=kind)
        axes.set(title=labels[name], xlabel="load over capacity", ylabel=labels[name], ylim=(0, None))
        axes.set_xticks(range(len(shares)), [f"{share:g}" for share in shares])
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument(
        "--pace", metavar="A+B", help="a device that takes A + B n ms for n images, instead of the model"
    )
    args = parser.parse_args()
    count, seconds = (2, 5.0) if args.quick else (6, 15.0)
    environ = {"DARKROOM_MAX_BATCH": str(MAX_BATCH)}
    with tempfile.TemporaryDirectory() as name, Generator() as generator:
        folder = Path(name)
        base = Load(repeats=0.0)
        if args.pace:
            environ |= {"DARKROOM_ENGINE": "fake", "DARKROOM_MODEL_NAME": "paced"}
            (folder / "prompts.txt").write_text(f"a picture, cost={args.pace}\n")
            base = replace(base, prompts=folder / "prompts.txt")
        with platform(folder, "rabbitmq", environ=environ) as running:
            bench = Bench(generator, running.url, folder, base)
            rounds, durations, capacity = run(bench, count, seconds)
    rows = compare(rounds, LOADS, durations)
    figures = {**figures_of(rows), "capacity_per_s": capacity}
    requests = [sum(len(run) for each in rounds for run in each.loads[load]) for load in range(len(LOADS))]
    config = {
        "device": f"a stand-in, {args.pace} ms" if args.pace else "the embedded model",
        "loads": LOADS,
        "seconds": durations,
        "rounds": count,
        "requests": requests,
        "cores": os.cpu_count(),
        "runs": rows,
    }
    errors = ", ".join(
        f"{_figure(name)} within {figures[f'sim_error_{_figure(name)}']:.1%} (A/A {figures[f'control_{_figure(name)}']:.1%})"
        for name in COMPARED
    )
    report.publish(
        args,
        "validation",
        config,
        figures,
        {},
        plot_of(rows),
        {"run by run": _table(rows)},
        f"validation: simulated against measured, {errors}",
    )


if __name__ == "__main__":
    main()
