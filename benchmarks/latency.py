"""What the platform adds to the bare engine, how fast a cache hit is, and what the processes weigh.

    python -m benchmarks.latency --json out.json --html out.html

Starts a private RabbitMQ and Redis, an API and one worker with the embedded model. Each request is held by
`Prefer: wait` on a kept-open connection, one at a time. From the time that the client saw, the time of its own batch on
the device is taken: what is left was added by the platform. Requests alternate between two arms that are equal (A/A):
their ratio tells how far the figures can be trusted.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks import report
from cli.platform import Platform, started
from cli.services import process
from cli.services.rabbitmq import RabbitServer

WARM_UP = 20


@contextmanager
def deployed(folder: Path, broker: str) -> Iterator[Platform]:
    """API, one worker and their services, on free ports; ended on leaving."""
    with ExitStack() as stack:
        environ = {
            **os.environ,
            "DARKROOM_PORT": str(process.free_port()),
            "DARKROOM_MODEL": str(report.ROOT / "models" / "emoji-turbo"),
            "DARKROOM_LOG_LEVEL": "warning",
        }
        if broker == "rabbitmq":
            rabbit = RabbitServer(folder / "rabbitmq")
            rabbit.start()
            stack.callback(rabbit.stop)
            environ["DARKROOM_BROKER_URL"] = rabbit.url
        platform = stack.enter_context(started(folder / "platform", 1, environ))
        platform.wait_ready()
        yield platform


def submit(connection: http.client.HTTPConnection, prompt: str, seed: int) -> tuple[float, dict[str, Any]]:
    """Milliseconds until the ended job was in the client's hands, and the job."""
    body = json.dumps({"prompt": prompt, "seed": seed})
    begun = time.perf_counter()
    connection.request("POST", "/v1/jobs", body, {"Content-Type": "application/json", "Prefer": "wait=30"})
    data = connection.getresponse().read()
    took_ms = (time.perf_counter() - begun) * 1000
    job = json.loads(data)
    if job.get("status") != "succeeded":
        raise RuntimeError(data.decode())
    return took_ms, job


def resident_mb(platform: Platform, child: str) -> float:
    """Resident memory of a child of the platform and all below it, in MB (10^6 bytes)."""
    (pid,) = [each.process.pid for each in platform.children if each.name == child and each.process]
    root = psutil.Process(pid)
    return sum(each.memory_info().rss for each in [root, *root.children(recursive=True)]) / 1e6


def measure(platform: Platform, count: int) -> dict[str, list[float]]:
    """Samples in milliseconds: added latency of two equal arms, the engine's own time, and cache hits."""
    connection = http.client.HTTPConnection(platform.url.removeprefix("http://"))
    prompt = "a red apple on a blue background"
    samples: dict[str, list[float]] = {
        "added_a": [],
        "added_b": [],
        "engine": [],
        "hit": [],
        "queued": [],
        "encode": [],
    }
    for number in range(-WARM_UP, count):
        arm = "added_a" if number % 2 else "added_b"
        took_ms, job = submit(connection, prompt, 1_000_000 + number)
        hit_ms, again = submit(connection, prompt, 1_000_000 + number)
        if again["cache"] != "hit" or job["cache"] != "miss":
            raise RuntimeError("The cache did not do what is measured here.")
        if number >= 0:
            batch_ms = job["timings"]["batch_ms"]
            samples[arm].append(took_ms - batch_ms)
            samples["engine"].append(batch_ms)
            samples["queued"].append(job["timings"]["queued_ms"])
            samples["encode"].append(job["timings"]["encode_ms"])
            samples["hit"].append(hit_ms)
    connection.close()
    return samples


def figures_of(samples: dict[str, list[float]]) -> dict[str, float]:
    added = samples["added_a"] + samples["added_b"]
    return {
        "added_idle_p50_ms": statistics.median(added),
        "added_idle_p95_ms": statistics.quantiles(added, n=20)[-1],
        "cache_hit_p50_ms": statistics.median(samples["hit"]),
        "cache_hit_p95_ms": statistics.quantiles(samples["hit"], n=20)[-1],
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
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    series = {
        "added by the platform": samples["added_a"] + samples["added_b"],
        "on the device": samples["engine"],
        "cache hit": samples["hit"],
    }
    for name, values in series.items():
        ordered = sorted(values)
        axes.plot(ordered, [(i + 1) / len(ordered) for i in range(len(ordered))], label=name)
    axes.set(xlabel="milliseconds", ylabel="share of requests", xscale="log", ylim=(0, 1))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--broker", choices=("rabbitmq", "redis"), default="rabbitmq")
    args = parser.parse_args()
    count = 60 if args.quick else 400
    with tempfile.TemporaryDirectory() as name, deployed(Path(name), args.broker) as platform:
        samples = measure(platform, count)
        figures = figures_of(samples)
        figures["api_rss_mb"] = resident_mb(platform, "api")
        figures["worker_rss_mb"] = resident_mb(platform, "worker-1")
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
