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

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.lib import plots
from benchmarks.lib.platform import alone
from benchmarks.load.generator import Generator
from benchmarks.load.schedule import Load
from benchmarks.plan.measured import LOADS, Bench, run
from benchmarks.plan.validating import COMPARED, MAX_BATCH, compare, figures_of, short, table_of


def plot_of(rows: Sequence[dict[str, Any]]) -> Any:
    """Measured and simulated, by the load; a mark for each run."""
    figure, grid = plots.canvas(1, 3, figsize=(14, 4))
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
        with alone(environ) as running:
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
        f"{short(name)} within {figures[f'sim_error_{short(name)}']:.1%} (A/A {figures[f'control_{short(name)}']:.1%})"
        for name in COMPARED
    )
    report.publish(
        args,
        "validation",
        config,
        figures,
        {},
        plot_of(rows),
        {"run by run": table_of(rows)},
        f"validation: simulated against measured, {errors}",
    )


if __name__ == "__main__":
    main()
