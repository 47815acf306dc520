"""What the promises cost: throughput with confirms, quorum queues, late acks and fences, over the same platform without.

    python -m benchmarks.safety --json out.json --html out.html

Two platforms on one RabbitMQ, each with a Redis, an API and a worker of its own; the second runs `benchmarks.unguarded`. The
engine paints noise in no time, so the platform itself is what is measured: with a real model the ratio is nearer to 1. Each is
saturated by clients that each hold one request, in turns; the guarded one is measured twice a round (A/A), and
`control_ratio` tells what the machine's noise is. The figures are medians of the rounds' ratios.
"""

from __future__ import annotations

import http.client
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.latency import submit
from cli.services import process
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from client import Client

CLIENTS = 32
READY_S = 60.0
ARMS = ("guarded", "unguarded")
_seeds = itertools.count(1)


@contextmanager
def deployed(folder: Path, rabbit: RabbitServer, arm: str) -> Iterator[str]:
    """A platform with the guards of `arm`; its URL."""
    with ExitStack() as stack:
        redis = RedisServer(folder / "redis")
        redis.start()
        stack.callback(redis.stop)
        port = process.free_port()
        environ = {
            **os.environ,
            "PYTHONPATH": str(report.ROOT),
            "DARKROOM_PORT": str(port),
            "DARKROOM_BROKER_URL": rabbit.url,
            "DARKROOM_REDIS_URL": redis.url,
            "DARKROOM_BLOB_DIR": str(folder / "blobs"),
            "DARKROOM_ENGINE": "fake",
            "DARKROOM_MODEL": f"fake-{arm}",
            "DARKROOM_LOG_LEVEL": "warning",
        }
        for module in ("api", "worker"):
            command = ["-m", module] if arm == "guarded" else ["-m", "benchmarks.unguarded", module]
            running = process.launch([sys.executable, *command], folder / module, environ)
            stack.callback(process.end, running, 20.0)
        url = f"http://127.0.0.1:{port}"
        client = Client(url)
        until = time.monotonic() + READY_S
        while not client.ready():
            if time.monotonic() > until:
                raise SystemExit(f"The {arm} platform is not ready; see {folder}.")
            time.sleep(0.1)
        client.close()
        yield url


def rate(url: str, seconds: float) -> float:
    """Jobs per second with `CLIENTS` clients, after a fifth of the time to fill up."""
    until = time.perf_counter() + 1.2 * seconds
    since = until - seconds
    ended: list[float] = []

    def client() -> None:
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        while time.perf_counter() < until:
            submit(connection, "noise", next(_seeds))
            ended.append(time.perf_counter())
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(since <= at <= until for at in ended) / seconds


def measure(rounds: int, seconds: float) -> dict[str, list[float]]:
    """Jobs per second of each phase, round by round; the first round warms up and is not kept."""
    samples: dict[str, list[float]] = {"guarded": [], "guarded_again": [], "unguarded": []}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        rabbit = RabbitServer(folder / "rabbitmq")
        rabbit.start()
        stack.callback(rabbit.stop)
        urls = {arm: stack.enter_context(deployed(folder / arm, rabbit, arm)) for arm in ARMS}
        for arm in ARMS:
            rate(urls[arm], seconds / 2)
        # Six rounds take every order once: neither place nor neighbour favours a phase.
        for order in itertools.islice(itertools.cycle(itertools.permutations(samples)), rounds):
            for phase in order:
                samples[phase].append(rate(urls[phase.partition("_")[0]], seconds))
    return samples


def figures_of(samples: dict[str, list[float]]) -> dict[str, float]:
    pairs = zip(samples["guarded"], samples["guarded_again"], strict=True)
    guarded = [(one + two) / 2 for one, two in pairs]
    ratios = [one / two for one, two in zip(guarded, samples["unguarded"], strict=True)]
    control = [one / two for one, two in zip(samples["guarded"], samples["guarded_again"], strict=True)]
    return {
        "safety_ratio": statistics.median(ratios),
        "safety_ratio_spread": max(ratios) - min(ratios),
        "guarded_jobs_per_s": statistics.median(guarded),
        "unguarded_jobs_per_s": statistics.median(samples["unguarded"]),
        "control_ratio": statistics.median(control),
        "control_spread": max(control) - min(control),
    }


def plot_of(samples: dict[str, list[float]]) -> Any:
    """Jobs per second of every phase, one point a round."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for place, values in enumerate(samples.values()):
        axes.plot([place] * len(values), values, "o", alpha=0.6)
    axes.set(xticks=range(len(samples)), ylabel="jobs per second", ylim=(0, None))
    axes.set_xticklabels(list(samples))
    axes.grid(alpha=0.3, axis="y")
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    rounds, seconds = (1, 4.0) if args.quick else (6, 12.0)
    samples = measure(rounds, seconds)
    config = {"rounds": rounds, "seconds": seconds, "clients": CLIENTS, "engine": "fake"}
    report.publish(args, "safety", config, figures_of(samples), dict(samples), plot_of(samples))


if __name__ == "__main__":
    main()
