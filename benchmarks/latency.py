"""What the platform adds to the bare engine, how fast a cache hit is, and what the processes weigh.

    python -m benchmarks.latency --json out.json --html out.html

Starts a private RabbitMQ and Redis, an API and one worker with the embedded model. Each request is held by
`Prefer: wait` on a kept-open connection, one at a time. From the time that the client saw, the time of its own batch on
the device is taken: what is left was added by the platform. Requests alternate between two arms that are equal (A/A):
their ratio tells how far the figures can be trusted.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import report
from benchmarks.lib import plots
from benchmarks.lib.asking import connect, draw, fresh
from benchmarks.lib.percentiles import percentile
from benchmarks.lib.platform import EMBEDDED, QUIET, Platform
from benchmarks.lib.processes import family, resident_mb

WARM_UP = 20


def measure(platform: Platform, count: int) -> dict[str, list[float]]:
    """Samples in milliseconds: added latency of two equal arms, the engine's own time, and cache hits."""
    connection = connect(platform.url)
    names = ("added_a", "added_b", "engine", "hit", "queued", "encode")
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-WARM_UP, count):
        request = fresh()
        took_ms, job = draw(connection, request)
        hit_ms, again = draw(connection, request)
        if again["cache"] != "hit" or job["cache"] != "miss":
            raise RuntimeError("The cache did not do what is measured here.")
        if number >= 0:
            timings = job["timings"]
            samples["added_a" if number % 2 else "added_b"].append(took_ms - timings["batch_ms"])
            samples["engine"].append(timings["batch_ms"])
            samples["queued"].append(timings["queued_ms"])
            samples["encode"].append(timings["encode_ms"])
            samples["hit"].append(hit_ms)
    connection.close()
    return samples


def figures_of(samples: dict[str, list[float]]) -> dict[str, float]:
    added = samples["added_a"] + samples["added_b"]
    return {
        "added_idle_p50_ms": statistics.median(added),
        "added_idle_p95_ms": percentile(added, 95),
        "cache_hit_p50_ms": statistics.median(samples["hit"]),
        "cache_hit_p95_ms": percentile(samples["hit"], 95),
        "engine_p50_ms": statistics.median(samples["engine"]),
        # Where it goes: from the record to a worker's claim (confirmed publish, delivery, fair claim), to a file, and the
        # rest (HTTP, pixels over the socket, the blob on disk, the terminal state, the event).
        "queued_p50_ms": statistics.median(samples["queued"]),
        "encode_p50_ms": statistics.median(samples["encode"]),
        "rest_p50_ms": statistics.median(added)
        - statistics.median(samples["queued"])
        - statistics.median(samples["encode"]),
        "control_ratio": statistics.median(samples["added_a"]) / statistics.median(samples["added_b"]),
    }


def plot_of(samples: dict[str, list[float]]) -> Any:
    """The distributions, as cumulative shares."""
    figure, axes = plots.canvas(figsize=(8, 4))
    series = {
        "added by the platform": samples["added_a"] + samples["added_b"],
        "on the device": samples["engine"],
        "cache hit": samples["hit"],
    }
    plots.shares(axes, series, "milliseconds", "share of requests", xscale="log", ylim=(0, 1))
    return figure


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--broker", choices=("rabbitmq", "redis"), default="rabbitmq")
    args = parser.parse_args()
    count = 60 if args.quick else 400
    settings = {**QUIET, "DARKROOM_MODEL": EMBEDDED}
    with Platform.open(settings, broker=args.broker == "rabbitmq", webhooks=True) as platform:
        samples = measure(platform, count)
        figures = figures_of(samples)
        figures["api_rss_mb"] = resident_mb(family(platform.process("api")))
        figures["worker_rss_mb"] = resident_mb(family(platform.process("worker-1")))
    report.publish(
        args,
        "latency",
        {"broker": args.broker, "requests": count, "model": "emoji-turbo", "size": "64x64", "steps": 1},
        figures,
        {name: [round(value, 3) for value in values] for name, values in samples.items()},
        plot_of(samples),
    )


if __name__ == "__main__":
    main()
