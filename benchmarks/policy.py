"""Goodput of batching policies on the same arrivals, under a virtual clock: ours, and what other servers do.

    python -m benchmarks.policy --json out.json --html out.html

Goodput is the share of jobs done within their deadlines. Ours is `scheduler.policy.decide`, the very code that workers run.
Against it stand fixed windows (Ray Serve, Mosec, KServe: a batch opens with its first job and leaves when full or when the window
is over), greedy FIFO, and BentoML's adaptive rule (its dispatcher's, with the cost fit known). Arrivals are Poisson, or bursts
(gamma, coefficient of variation 3); deadlines are 3 or 6 full batches after arrival; jobs share one batch key, or three
that cannot be mixed. Device costs are fits of a + b n milliseconds: published ones of GPUs, and one of a processor.

The bound is clairvoyant and generous: it knows every arrival, always works at the speed of full batches, may mix keys, and may
split a job's time as it likes within its window. Jobs of one length and their windows form a convex bipartite graph with
the device's time slots, on which the earliest deadline first is an optimal matching (Glover 1967).
"""

from __future__ import annotations

import statistics
from typing import Any, Final

import numpy as np

from benchmarks import report, rivals
from benchmarks.lib import plots

FITS_MS: Final = {
    "cpu": (6.0, 7.0),
    "a100_eager": (50.0, 40.0),
    "a100_tensorrt": (8.5, 27.7),
    "4090_tensorrt": (4.8, 31.7),
}
WINDOWS_MS: Final = (5, 20, 50, 100)
LOADS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
MIXES: Final = {"one_key": (1.0,), "mixed_keys": (0.7, 0.2, 0.1)}


def measure(jobs: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """Goodput by scenario and policy, one value for each load; `bound` among the policies."""
    samples: dict[str, dict[str, list[float]]] = {}
    for fit, (a, b) in FITS_MS.items():
        cost = rivals.Cost(a / 1000, b / 1000)
        for mix, shares in MIXES.items():
            for bursty in (False, True):
                rows = samples.setdefault(f"{fit} {mix} {'bursts' if bursty else 'poisson'}", {})
                for load in LOADS:
                    rng = np.random.default_rng(seed)
                    arrivals = rivals.trace(rng, jobs, load * cost.capacity, shares, bursty, cost)
                    policies: dict[str, rivals.Policy] = {
                        "ours": rivals.ours,
                        "fifo": rivals.fifo,
                        "bentoml": rivals.Bento(),
                    }
                    policies |= {f"window_{ms}": rivals.window(ms / 1000) for ms in WINDOWS_MS}
                    for name, policy in policies.items():
                        goodput, rate = rivals.simulate(arrivals, cost, policy)
                        rows.setdefault(name, []).append(goodput)
                        rows.setdefault(f"{name} rate", []).append(rate / cost.capacity)
                    rows.setdefault("bound", []).append(rivals.clairvoyant(arrivals, cost))
    return samples


def figures_of(samples: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    at = LOADS.index(0.9)
    over_bound = [rows["ours"][at] / rows["bound"][at] for rows in samples.values()]
    rivals = ["fifo", *(f"window_{ms}" for ms in WINDOWS_MS)]
    over_best = [
        rows["ours"][i] / max(rows[name][i] for name in rivals)
        for rows in samples.values()
        for i in range(len(LOADS))
    ]
    over_bento = [
        rows["ours"][i] / rows["bentoml"][i] for rows in samples.values() for i in range(len(LOADS))
    ]
    return {
        "goodput_over_clairvoyant_090": min(over_bound),
        "goodput_over_clairvoyant_090_median": statistics.median(over_bound),
        "goodput_over_best_window_min": min(over_best),
        "goodput_over_best_window_median": statistics.median(over_best),
        "goodput_over_bentoml_min": min(over_bento),
        "goodput_over_bentoml_median": statistics.median(over_bento),
    }


def plot_of(samples: dict[str, dict[str, list[float]]]) -> Any:
    """Goodput over load, one panel a scenario."""
    figure, grid = plots.canvas(4, 4, figsize=(14, 12), sharex=True, sharey=True)
    for axes, (scenario, rows) in zip(grid.flat, samples.items(), strict=True):
        for name, values in rows.items():
            if name.endswith(" rate"):
                continue
            bold = name == "ours"
            style = "k--" if name == "bound" else "-"
            axes.plot(LOADS, values, style, label=name, linewidth=2.5 if bold else 1, zorder=3 if bold else 2)
        axes.set_title(scenario, fontsize=9)
        axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=7)
    figure.supxlabel("load, as a share of capacity")
    figure.supylabel("goodput")
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    jobs = 600 if args.quick else 4000
    samples = measure(jobs, seed=1)
    config = {
        "jobs": jobs,
        "limit": rivals.LIMIT,
        "loads": LOADS,
        "fits_ms": FITS_MS,
        "patience": rivals.PATIENCE,
    }
    report.publish(args, "policy", config, figures_of(samples), dict(samples), plot_of(samples))


if __name__ == "__main__":
    main()
