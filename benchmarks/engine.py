"""What the engine makes of the processor: its speed over a plain diffusers call, and what each of its options costs and gives.

    python -m benchmarks.engine --json out.json --html out.html [--full FOLDER]

Everything runs on one thread, in interleaved pairs; a figure is the median of the pairs' ratios, and `control_ratio` is that of a
thing with itself. The plain diffusers pipeline runs in a process of its own, where nothing of ours has touched the library. Figures that begin with `full_` are of SD-Turbo's true layout and sizes with random
weights (`benchmarks.make_checkpoint`), made in a temporary folder unless `--full` names one; `--quick` leaves them out, and
`--parts full` is them alone.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.engines.calls import BATCH, checkpoint
from benchmarks.engines.embedded import Embedded
from benchmarks.engines.full import attention, full
from benchmarks.lib import plots

PARTS = ("attention", "embedded", "compile", "full")


def plot_of(samples: dict[str, list[float]], sizes: list[int]) -> Any:
    """Memory of attention over tokens, and the factors as bars."""
    figure, (left, right) = plots.canvas(1, 2, figsize=(11, 4))
    for name in ("flash", "math") if "flash_mib" in samples else ():
        left.plot(sizes, samples[f"{name}_mib"], "o-", label=name)
    left.set(xlabel="image tokens", ylabel="memory of one attention, MiB", title="SD-Turbo's heads (5 x 64)")
    if left.lines:
        left.legend()
    factors = {
        name: statistics.median(values)
        for name, values in samples.items()
        if name.endswith(("_factor", "_over_pipeline", "_speedup", "_alone", "control_ratio"))
    }
    right.barh(list(factors), list(factors.values()))
    right.axvline(1, color="grey")
    right.invert_yaxis()
    right.set(xlabel="times as fast")
    figure.tight_layout()
    return figure


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--full", type=Path, metavar="FOLDER", help="a folder of benchmarks.make_checkpoint")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--full-rounds", type=int, default=1, help="pairs with the full-size model")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="by default all; --quick leaves out two")
    args: argparse.Namespace = parser.parse_args()
    rounds = 5 if args.quick else args.rounds
    parts = args.parts or (PARTS[:2] if args.quick else PARTS)
    torch.set_num_threads(1)
    sizes = [512, 1024, 2048] if args.quick else [512, 1024, 2048, 3072, 4096]
    samples: dict[str, list[float]] = {}
    if "attention" in parts:
        samples |= attention(3 if args.quick else 10, sizes)
    if "embedded" in parts or "compile" in parts:
        embedded = Embedded(rounds)
        samples |= embedded.measure() if "embedded" in parts else {}
        samples |= embedded.compiled() if "compile" in parts else {}
    if "full" in parts:
        with checkpoint(args.full) as folder:
            samples |= full(folder, args.full_rounds)
    figures = {
        name: values[-1] if name.endswith("_mib") else statistics.median(values)
        for name, values in samples.items()
    }
    config = {"batch": BATCH, "rounds": rounds, "threads": 1, "tokens": sizes, "parts": list(parts)}
    report.publish(args, "engine", config, figures, samples, plot_of(samples, sizes))


if __name__ == "__main__":
    main()
