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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import report
from cli.client import Client
from cli.services import process
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer

WARM_UP = 20
READY_S = 120.0


@dataclass(frozen=True, slots=True)
class Deployment:
    port: int
    api: psutil.Process
    worker: psutil.Process


@contextmanager
def deployed(folder: Path, broker: str) -> Iterator[Deployment]:
    """API and worker with their services, on free ports; ended on leaving."""
    with ExitStack() as stack:
        redis = RedisServer(folder / "redis")
        redis.start()
        stack.callback(redis.stop)
        broker_url = redis.url.replace("/0", "/1")
        if broker == "rabbitmq":
            rabbit = RabbitServer(folder / "rabbitmq")
            rabbit.start()
            stack.callback(rabbit.stop)
            broker_url = rabbit.url
        port = process.free_port()
        environ = {
            **os.environ,
            "PYTHONPATH": str(report.ROOT),
            "DARKROOM_PORT": str(port),
            "DARKROOM_REDIS_URL": redis.url,
            "DARKROOM_BROKER_URL": broker_url,
            "DARKROOM_BLOB_DIR": str(folder / "blobs"),
            "DARKROOM_MODEL": str(report.ROOT / "models" / "emoji-turbo"),
            "DARKROOM_LOG_LEVEL": "warning",
        }
        running: list[subprocess.Popen[bytes]] = []
        for module in ("api", "worker"):
            child = process.launch([sys.executable, "-m", module], folder / module, environ)
            stack.callback(process.end, child, 20.0)
            running.append(child)
        client = Client(f"http://127.0.0.1:{port}")
        stack.callback(client.close)
        until = time.monotonic() + READY_S
        while not client.ready():
            if time.monotonic() > until:
                raise TimeoutError("The platform did not become ready.")
            time.sleep(0.1)
        yield Deployment(port, psutil.Process(running[0].pid), psutil.Process(running[1].pid))


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


def resident_mb(root: psutil.Process) -> float:
    """Resident memory of the process and all below it, in MB (10^6 bytes)."""
    return sum(each.memory_info().rss for each in [root, *root.children(recursive=True)]) / 1e6


def measure(deployment: Deployment, count: int) -> dict[str, list[float]]:
    """Samples in milliseconds: added latency of two equal arms, the engine's own time, and cache hits."""
    connection = http.client.HTTPConnection("127.0.0.1", deployment.port)
    prompt = "a red apple on a blue background"
    samples: dict[str, list[float]] = {"added_a": [], "added_b": [], "engine": [], "hit": []}
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
    with tempfile.TemporaryDirectory() as name, deployed(Path(name), args.broker) as deployment:
        samples = measure(deployment, count)
        figures = figures_of(samples)
        figures["api_rss_mb"] = resident_mb(deployment.api)
        figures["worker_rss_mb"] = resident_mb(deployment.worker)
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
