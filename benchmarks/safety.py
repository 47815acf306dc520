"""What the promises cost: throughput with confirms, quorum queues, late acks and fences, over the same platform without.

    python -m benchmarks.safety --json out.json --html out.html

Two platforms on one RabbitMQ, each with a Redis, an API and a worker of its own; the second runs `benchmarks.unguarded`. The
engine paints noise in no time, so the platform itself is what is measured: with a real model the ratio is nearer to 1. Each is
saturated by clients that each hold one request, in turns; the guarded one is measured twice a round (A/A), and
`control_ratio` tells what the machine's noise is. The figures are medians of the rounds' ratios.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.lib import plots
from benchmarks.lib.orders import orders
from benchmarks.lib.platform import FAKE, QUIET, Platform, served
from benchmarks.lib.ratios import control, means, ratios, spread
from benchmarks.lib.saturate import CLIENTS, draw_rate
from cli.services.rabbitmq import RabbitServer

ARMS = {
    "guarded": ("api", "worker"),
    "unguarded": ("benchmarks.unguarded api", "benchmarks.unguarded worker"),
}
"""The modules of each platform."""


def measure(rounds: int, seconds: float) -> dict[str, list[float]]:
    """Jobs per second of each phase, round by round; the first round warms up and is not kept."""
    samples: dict[str, list[float]] = {"guarded": [], "guarded_again": [], "unguarded": []}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        rabbit = stack.enter_context(served(RabbitServer(folder / "rabbitmq")))
        urls = {}
        for arm, (api, worker) in ARMS.items():
            settings = {**FAKE, **QUIET, "DARKROOM_MODEL": f"fake-{arm}"}
            opened = Platform.open(settings, folder / arm, broker=rabbit, api=api, worker=worker)
            urls[arm] = stack.enter_context(opened).url
        for url in urls.values():
            draw_rate(url, seconds / 2)
        for order in orders(list(samples), rounds):
            for phase in order:
                samples[phase].append(draw_rate(urls[phase.partition("_")[0]], seconds)[0])
    return samples


def figures_of(samples: dict[str, list[float]]) -> dict[str, float]:
    guarded = means(samples["guarded"], samples["guarded_again"])
    found = ratios(guarded, samples["unguarded"])
    return {
        "safety_ratio": statistics.median(found),
        "safety_ratio_spread": spread(found),
        "guarded_jobs_per_s": statistics.median(guarded),
        "unguarded_jobs_per_s": statistics.median(samples["unguarded"]),
        **control(samples["guarded"], samples["guarded_again"]),
    }


def plot_of(samples: dict[str, list[float]]) -> Any:
    """Jobs per second of every phase, one point a round."""
    figure, axes = plots.canvas(figsize=(7, 4))
    plots.points(axes, samples, "jobs per second")
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    rounds, seconds = (1, 4.0) if args.quick else (6, 12.0)
    samples = measure(rounds, seconds)
    config = {"rounds": rounds, "seconds": seconds, "clients": CLIENTS, "engine": "fake"}
    report.publish(args, "safety", config, figures_of(samples), dict(samples), plot_of(samples))


if __name__ == "__main__":
    main()
