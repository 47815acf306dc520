"""Whether a long queue costs anything: submit latency, fair takes and memory with 1,000 to 100,000 jobs waiting.

    python -m benchmarks.depth --json out.json --html out.html

Starts a private RabbitMQ and Redis, an API and a worker whose device is slow on purpose, so that what is submitted waits. The queue is
filled step by step, in batches of 256 jobs from several clients at once; at every depth jobs are submitted one at a time, in two equal
arms that alternate (A/A), jobs are taken in fair order and given back, as a worker takes them, and the processes are weighed. Flat
means: the ratios of the deepest to the shallowest are 1 within the control's. Redis holds every job that waits, and grows by so
many bytes for each: that ratio is the bytes of a job, not 1.
"""

from __future__ import annotations

import asyncio
import statistics
from contextlib import closing
from typing import Any, Final

from benchmarks import report
from benchmarks.lib import plots, store
from benchmarks.lib.asking import SLOW, connect, fresh, submit
from benchmarks.lib.backlog import fill
from benchmarks.lib.percentiles import percentile
from benchmarks.lib.platform import DEEP, FAKE, QUIET, Platform
from benchmarks.lib.processes import family, resident_mb

FULL: Final = ((1_000, 10_000, 100_000), 400)
SHORT: Final = ((200, 2_000), 60)
"""Depths, and submits at each of them."""
WARM_UP: Final = 50


def at_depth(url: str, count: int) -> dict[str, list[float]]:
    """Milliseconds of single submits, in two equal arms."""
    arms: dict[str, list[float]] = {"a": [], "b": []}
    with closing(connect(url)) as connection:
        for number in range(count):
            arms["a" if number % 2 else "b"].append(submit(connection, fresh(SLOW)))
    return arms


def measure(platform: Platform, depths: tuple[int, ...], count: int) -> dict[int, dict[str, Any]]:
    """At each depth: the arms, the takes, the rate at which it was reached, and megabytes of the processes."""
    url, redis_url = platform.url, platform.redis.url
    at_depth(url, WARM_UP)
    asyncio.run(store.takes(redis_url, "fake", 5))
    submitted, found = WARM_UP, {}
    for depth in depths:
        rate = fill(url, depth - submitted, lambda: fresh(SLOW))
        found[depth] = {
            "waiting": asyncio.run(store.waiting(redis_url, "fake")),
            "fill_per_s": rate,
            **at_depth(url, count),
            "take": asyncio.run(store.takes(redis_url, "fake", count // 4)),
            "worker_mb": resident_mb(family(platform.process("worker-1"))),
            "api_mb": resident_mb(family(platform.process("api"))),
            "redis_mb": store.redis_mb(redis_url),
        }
        submitted = depth + count
        print(depth, *(f"{name} {value:.1f}" for name, value in record(found[depth]).items()), flush=True)
    return found


def record(at: dict[str, Any]) -> dict[str, float]:
    """The figures of one depth."""
    times = {"submit": at["a"] + at["b"], "take": at["take"]}
    found = {name: at[name] for name in ("waiting", "worker_mb", "api_mb", "redis_mb", "fill_per_s")}
    return found | {f"{name}_p{p}_ms": percentile(times[name], p) for name in times for p in (50, 99)}


def figures_of(found: dict[int, dict[str, Any]]) -> dict[str, float]:
    shallow, deep = record(found[min(found)]), record(found[max(found)])
    figures = {"depth_min": shallow["waiting"], "depth_max": deep["waiting"]}
    for name in ("submit_p50_ms", "submit_p99_ms", "take_p50_ms", "worker_mb"):
        figures |= {f"{name}_shallow": shallow[name], f"{name}_deep": deep[name]}
    for name in ("submit_p50_ms", "submit_p99_ms", "take_p50_ms", "worker_mb", "api_mb", "fill_per_s"):
        figures[f"{name.removesuffix('_ms')}_deep_over_shallow"] = deep[name] / shallow[name]
    grown, middles = deep["waiting"] - shallow["waiting"], statistics.median
    return {
        **figures,
        "redis_mb_deep": deep["redis_mb"],
        "redis_bytes_per_job": 1e6 * (deep["redis_mb"] - shallow["redis_mb"]) / grown if grown else 0.0,
        "control_ratio": middles(middles(each["a"]) / middles(each["b"]) for each in found.values()),
    }


def plot_of(found: dict[int, dict[str, Any]]) -> Any:
    """Latencies and memory by depth."""
    figure, panels = plots.canvas(1, 3, figsize=(15, 4))
    titles = {"submit": "one submit", "take": f"one take of {store.TAKEN} jobs in fair order", "mb": "memory"}
    for axes, (word, title) in zip(panels, titles.items(), strict=True):
        for name in (each for each in record(found[min(found)]) if word in each):
            axes.plot(list(found), [record(at)[name] for at in found.values()], "o-", label=name)
        axes.set(title=title, xlabel="jobs waiting", xscale="log", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    depths, count = SHORT if args.quick else FULL
    with Platform.open({**FAKE, **QUIET, **DEEP}, webhooks=True) as platform:
        found = measure(platform, depths, count)
    config = {"depths": depths, "submits": count, "broker": "rabbitmq", "engine": "a stand-in, 5 s a pass"}
    samples = {str(depth): values for depth, values in found.items()}
    figures = figures_of(found)
    line = (
        "depth: from {depth_min:.0f} to {depth_max:.0f} jobs waiting, a submit takes {submit_p50_deep_over_shallow:.2f} of the time "
        "(p50; {submit_p50_ms_deep:.1f} ms), a take {take_p50_deep_over_shallow:.2f}, the worker {worker_mb_deep_over_shallow:.2f} "
        "of the memory; Redis holds {redis_bytes_per_job:.0f} bytes a job"
    ).format(**figures)
    rows = [[depth, *(f"{value:.2f}" for value in record(at).values())] for depth, at in found.items()]
    table: report.Table = [["submitted", *record(found[min(found)])], *rows]
    report.publish(args, "depth", config, figures, samples, plot_of(found), {"by depth": table}, line)


if __name__ == "__main__":
    main()
