"""Whether a long queue costs anything: submit latency and memory with 1,000 to 100,000 jobs waiting.

    python -m benchmarks.depth --json out.json --html out.html

Starts a private RabbitMQ and Redis, an API and a worker whose device is slow on purpose, so that what is submitted waits. The queue is
filled step by step; at every depth jobs are submitted one at a time, in two equal arms that alternate (A/A), and the
processes are weighed. Flat means: the ratios of the deepest to the shallowest are 1 within the control's.
"""

from __future__ import annotations

import http.client
import itertools
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.latency import resident_mb
from benchmarks.load.embedded import platform
from cli.platform import Platform

PROMPT: Final = "slow=5"
"""Read by the stand-in engine: every pass takes five seconds."""
FILLERS: Final = 16
DEPTHS: Final = (1_000, 10_000, 100_000)
QUICK: Final = (100, 1_000)
ENVIRON: Final = {
    "DARKROOM_ENGINE": "fake",
    "DARKROOM_MODEL_NAME": "slow",
    "DARKROOM_JOB_TTL_S": "100000000",
    "DARKROOM_QUEUE_MAX_LENGTH": "1000000",
}
_seeds = itertools.count(1)


def submit(connection: http.client.HTTPConnection) -> float:
    """Milliseconds until a new job was accepted. Raises `RuntimeError` if it was not."""
    body = json.dumps({"prompt": PROMPT, "seed": next(_seeds)})
    begun = time.perf_counter()
    connection.request("POST", "/v1/jobs", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    took_ms = (time.perf_counter() - begun) * 1000
    if answer.status != 202:
        raise RuntimeError(data.decode())
    return took_ms


def fill(host: str, count: int) -> float:
    """Submits `count` jobs from `FILLERS` clients at once; answers jobs per second."""

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(host)
        for _ in range(number, count, FILLERS):
            submit(connection)
        connection.close()

    begun = time.perf_counter()
    with ThreadPoolExecutor(FILLERS) as pool:
        list(pool.map(client, range(FILLERS)))
    return count / (time.perf_counter() - begun)


def at_depth(host: str, count: int) -> dict[str, list[float]]:
    """Milliseconds of single submits, in two equal arms."""
    arms: dict[str, list[float]] = {"a": [], "b": []}
    connection = http.client.HTTPConnection(host)
    for number in range(count):
        arms["a" if number % 2 else "b"].append(submit(connection))
    connection.close()
    return arms


def measure(running: Platform, depths: tuple[int, ...], count: int) -> dict[int, dict[str, Any]]:
    """At each depth: the arms, the rate at which it was reached, and megabytes of the processes."""
    host = running.url.removeprefix("http://")
    at_depth(host, 50)
    waiting, found = 50, {}
    for depth in depths:
        rate = fill(host, depth - waiting)
        arms = at_depth(host, count)
        waiting = depth + count
        found[depth] = {
            **arms,
            "fill_per_s": rate,
            "api_mb": resident_mb(running, "api"),
            "worker_mb": resident_mb(running, "worker-1"),
        }
        print(f"{depth}: filled at {rate:.0f}/s, submit p50 {statistics.median(arms['a']):.1f} ms")
    return found


def figures_of(found: dict[int, dict[str, Any]]) -> dict[str, float]:
    shallow, deep = found[min(found)], found[max(found)]

    def median(at: dict[str, Any]) -> float:
        return float(statistics.median(at["a"] + at["b"]))

    def p99(at: dict[str, Any]) -> float:
        return float(statistics.quantiles(at["a"] + at["b"], n=100)[-1])

    return {
        "depth_min": min(found),
        "depth_max": max(found),
        "submit_p50_ms_shallow": median(shallow),
        "submit_p50_ms_deep": median(deep),
        "submit_p50_deep_over_shallow": median(deep) / median(shallow),
        "submit_p99_deep_over_shallow": p99(deep) / p99(shallow),
        "worker_mb_deep_over_shallow": deep["worker_mb"] / shallow["worker_mb"],
        "api_mb_deep_over_shallow": deep["api_mb"] / shallow["api_mb"],
        "fill_per_s_deep_over_shallow": deep["fill_per_s"] / shallow["fill_per_s"],
        "control_ratio": statistics.median(
            [statistics.median(each["a"]) / statistics.median(each["b"]) for each in found.values()]
        ),
    }


def plot_of(found: dict[int, dict[str, Any]]) -> Any:
    """Submit latency and memory by depth."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    depths = sorted(found)
    for name, pick in (("p50", 50), ("p99", 99)):
        values = [statistics.quantiles(found[d]["a"] + found[d]["b"], n=100)[pick - 1] for d in depths]
        left.plot(depths, values, "o-", label=name)
    left.set(title="one submit", xlabel="jobs waiting", ylabel="milliseconds", xscale="log", ylim=(0, None))
    for name in ("worker_mb", "api_mb"):
        right.plot(depths, [found[depth][name] for depth in depths], "o-", label=name.removesuffix("_mb"))
    right.set(title="resident memory", xlabel="jobs waiting", ylabel="MB", xscale="log", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    depths, count = (QUICK, 60) if args.quick else (DEPTHS, 400)
    with (
        tempfile.TemporaryDirectory() as folder,
        platform(Path(folder), "rabbitmq", environ=dict(ENVIRON)) as running,
    ):
        found = measure(running, depths, count)
    config = {"depths": depths, "submits": count, "broker": "rabbitmq", "engine": "a stand-in, 5 s a pass"}
    samples = {str(depth): values for depth, values in found.items()}
    report.publish(args, "depth", config, figures_of(found), samples, plot_of(found))


if __name__ == "__main__":
    main()
