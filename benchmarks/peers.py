"""The platform beside other servers of models: the same model, steps, batch limit and encoding behind each of them.

    python -m benchmarks.peers --json out.json --html out.html

LitServe, Ray Serve, BentoML, Mosec and celery-batches each get an environment of their own under `.cache/peers` (made at the
first run, gigabytes and minutes each), an application as their documentation recommends for dynamic batching
(`benchmarks/peer_apps`), and the best window of a small sweep. Every server in turn is started, asked to saturation by clients
that each hold one request, offered the same Poisson arrivals at the same rates, and stopped; round after round, the order
reversed each time. The process that draws has one core, all else the others. The platform runs twice in each round: what
differs between the two is noise. `docs/peers.md` tells how to read it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.lib import plots
from benchmarks.lib.saturate import CLIENTS
from benchmarks.peer_apps import environments
from benchmarks.peer_apps.comparison import HIGH, Comparison
from benchmarks.peer_apps.figures import figures_of, samples_of, slo
from benchmarks.peer_apps.servers import PEERS

QUICK_PEERS: Final = ("mosec", "litserve")


def plot_of(comparison: Comparison) -> Any:
    """Throughput at saturation, one point a round; and the latencies at the higher load, as shares that took longer."""
    figure, (left, right) = plots.canvas(1, 2, figsize=(11, 4))
    rates = {name: [each.rate for each in rounds] for name, rounds in comparison.samples.items()}
    plots.points(left, rates, "pictures per second, saturated", rotation=30)
    for name, rounds in comparison.samples.items():
        taken = sorted(1000 * each for sample in rounds for each in sample.offered[HIGH].answered_s)
        longer = [1 - place / len(taken) for place in range(len(taken))]
        right.step(taken, longer, label=name)
    right.axvline(1000 * slo(comparison.capacity), color="grey", linestyle="--", label="objective")
    right.set(xlabel=f"milliseconds, at {HIGH:.0%} load", ylabel="share that took longer", xscale="log")
    right.set(yscale="log", ylim=(0.005, 1))
    right.legend()
    right.grid(alpha=0.3)
    return figure


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--peers", help="names, with commas between; by default all, with --quick two")
    parser.add_argument(
        "--rounds", type=int, help="rounds in which every server has its turn (4; 1 with --quick)"
    )
    args = parser.parse_args()
    chosen = args.peers.split(",") if args.peers else list(QUICK_PEERS if args.quick else PEERS)
    if unknown := set(chosen) - set(PEERS):
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}; known are {', '.join(PEERS)}")
    rounds, seconds = (1, 3.0) if args.quick else (4, 15.0)
    rounds = args.rounds or rounds
    with tempfile.TemporaryDirectory() as name:
        comparison = Comparison(chosen, seconds, Path(name))
        comparison.prepare()
        if not args.quick:
            comparison.choose_windows()
        comparison.run(rounds)
    absent = {
        name: "left out by the arguments" for name in PEERS if name not in chosen + list(comparison.failures)
    }
    config = {
        "rounds": rounds,
        "seconds": seconds,
        "clients": CLIENTS,
        "model": "emoji-turbo",
        "size": "64x64",
        "max_batch": 8,
        "versions": {name: environments.version_of(name) for name in comparison.names},
        "not_measured": comparison.failures | absent,
        "sweep": {
            name: {
                f"{window:g} ms": f"{rate:.1f}/s, p99 {p99:.0f} ms" for window, (rate, p99) in tried.items()
            }
            for name, tried in comparison.sweep.items()
        },
    }
    report.publish(args, "peers", config, figures_of(comparison), samples_of(comparison), plot_of(comparison))


if __name__ == "__main__":
    main()
