"""How much of what batching can give the platform delivers, and what of the bare engine's speed is left through it.

    python -m benchmarks.batching --json out.json --html out.html

The bare engine runs in a plain loop in a process of its own; the platform runs the same engine behind REST, RabbitMQ, a worker
and the cache, saturated by clients that each hold one request. Both with batches of 1 and of 8. The engine process is pinned to
one core and everything else to the others, so that they do not slow each other. Phases alternate: bare and platform,
small and large batches, round after round; each round gives one ratio, of phases that ran next to each other, and the figures
are medians of those. Every bare phase is measured twice in a row (A/A): `control_ratio` tells what the machine's noise is.

`added_p50_over_celery` is what the platform adds to the engine at idle, p50, over what stock Celery takes on the same RabbitMQ for
`delay().get()` of an empty task (`benchmarks/celery_floor.py`); requests to the two alternate.
"""

from __future__ import annotations

import http.client
import itertools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks import celery_floor, report
from benchmarks.cores import cores, pin
from benchmarks.latency import WARM_UP, deployed, submit
from cli.platform import Platform, started
from cli.services import process
from cli.services.rabbitmq import RabbitServer
from contracts.engine import Batch, BatchKey, ImageTask
from contracts.settings import WorkerSettings
from worker.engine.host import EngineHost
from worker.engine.messages import Done

SIZES = (1, 8)
CLIENTS = 32
PROMPT = "a red apple on a blue background"
KEY = BatchKey("emoji-turbo", 64, 64, guided=False)
MODEL = str(report.ROOT / "models" / "emoji-turbo")
_seeds = itertools.count(1)


def bare_rate(host: EngineHost, size: int, seconds: float) -> float:
    """Images per second of the engine in a plain loop with batches of `size`; by its own clock, so without our pipe."""
    images, busy = 0, 0.0
    while busy < seconds:
        tasks = {number: ImageTask(PROMPT, "", number) for number in itertools.islice(_seeds, size)}
        done = host.run(Batch(KEY, tuple(tasks), tasks))
        if not isinstance(done, Done):
            raise RuntimeError(done.reason)
        images, busy = images + size, busy + done.seconds
    return images / busy


def platform_rate(platform: Platform, seconds: float) -> tuple[float, float]:
    """Images per second through REST with `CLIENTS` clients, after a fifth of the time to fill up; and the mean batch."""
    until = time.perf_counter() + 1.2 * seconds
    since = until - seconds
    ended: list[tuple[float, int]] = []

    def client() -> None:
        connection = http.client.HTTPConnection(platform.url.removeprefix("http://"))
        while time.perf_counter() < until:
            _, job = submit(connection, PROMPT, next(_seeds))
            ended.append((time.perf_counter(), job["timings"]["batch_size"]))
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = [size for at, size in ended if since <= at <= until]
    return len(counted) / seconds, statistics.mean(counted)


@contextmanager
def platforms(folder: Path) -> Iterator[dict[int, Platform]]:
    """A platform for each size of batches, on one RabbitMQ, each with its own Redis and queue. Idle ones cost nothing."""
    with ExitStack() as stack:
        rabbit = RabbitServer(folder / "rabbitmq")
        rabbit.start()
        stack.callback(rabbit.stop)
        running: dict[int, Platform] = {}
        for size in SIZES:
            environ = {
                **os.environ,
                "DARKROOM_PORT": str(process.free_port()),
                "DARKROOM_MODEL": MODEL,
                "DARKROOM_MODEL_NAME": f"emoji-turbo-{size}",
                "DARKROOM_MAX_BATCH": str(size),
                "DARKROOM_BROKER_URL": rabbit.url,
                "DARKROOM_LOG_LEVEL": "warning",
            }
            platform = stack.enter_context(started(folder / str(size), 1, environ))
            platform.wait_ready()
            for child in platform.children:
                if child.process is not None:
                    below = psutil.Process(child.process.pid).children(recursive=True)
                    pin(child.process.pid, below[0].pid if below else -1)
            running[size] = platform
        yield running


def measure(rounds: int, seconds: float) -> dict[str, list[float]]:
    """Samples of each phase, round by round: images per second, and mean batches."""
    samples: dict[str, list[float]] = {}
    own, rest = cores()
    os.sched_setaffinity(0, rest)
    host = EngineHost(WorkerSettings(model=MODEL))
    host.start()
    with tempfile.TemporaryDirectory() as name, platforms(Path(name)) as running:
        if host.pid is not None:
            for thread in psutil.Process(host.pid).threads():
                os.sched_setaffinity(thread.id, own)
        try:
            for _ in range(rounds):
                for size in SIZES:
                    rate, batch = platform_rate(running[size], seconds)
                    phases = {
                        f"bare_{size}": bare_rate(host, size, seconds / 2),
                        f"bare_again_{size}": bare_rate(host, size, seconds / 2),
                        f"platform_{size}": rate,
                        f"batch_{size}": batch,
                    }
                    for phase, value in phases.items():
                        samples.setdefault(phase, []).append(value)
        finally:
            host.kill()
    return samples


def measure_celery(count: int) -> dict[str, list[float]]:
    """Milliseconds at idle: what the platform adds to the engine, and an empty task of stock Celery, by turns."""
    samples: dict[str, list[float]] = {"added_ms": [], "celery_ms": []}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        platform = stack.enter_context(deployed(folder, "rabbitmq"))
        url = platform.children[0].environ["DARKROOM_BROKER_URL"]
        task = stack.enter_context(celery_floor.serving(url, folder / "celery"))
        connection = http.client.HTTPConnection(platform.url.removeprefix("http://"))
        for number in range(-WARM_UP, count):
            took_ms, job = submit(connection, PROMPT, next(_seeds))
            celery_ms = celery_floor.roundtrip_ms(task)
            if number >= 0:
                samples["added_ms"].append(took_ms - job["timings"]["batch_ms"])
                samples["celery_ms"].append(celery_ms)
        connection.close()
    return samples


def figures_of(samples: dict[str, list[float]]) -> dict[str, float]:
    def bare(size: int) -> list[float]:
        pairs = zip(samples[f"bare_{size}"], samples[f"bare_again_{size}"], strict=True)
        return [(one + two) / 2 for one, two in pairs]

    def ratio(above: list[float], below: list[float]) -> list[float]:
        return [a / b for a, b in zip(above, below, strict=True)]

    small, large = SIZES
    delivered = ratio(samples[f"platform_{large}"], samples[f"platform_{small}"])
    possible = ratio(bare(large), bare(small))
    control = [
        value for size in SIZES for value in ratio(samples[f"bare_{size}"], samples[f"bare_again_{size}"])
    ]
    return {
        "batch_gain_delivered": statistics.median(ratio(delivered, possible)),
        "batch_gain_bare": statistics.median(possible),
        "batch_gain_platform": statistics.median(delivered),
        "platform_over_bare": statistics.median(ratio(samples[f"platform_{large}"], bare(large))),
        "platform_over_bare_batch_1": statistics.median(ratio(samples[f"platform_{small}"], bare(small))),
        "mean_batch": statistics.median(samples[f"batch_{large}"]),
        "added_p50_over_celery": statistics.median(samples["added_ms"])
        / statistics.median(samples["celery_ms"]),
        "added_p50_ms": statistics.median(samples["added_ms"]),
        "celery_p50_ms": statistics.median(samples["celery_ms"]),
        "control_ratio": statistics.median(control),
        "control_spread": max(control) - min(control),
    }


def plot_of(samples: dict[str, list[float]]) -> Any:
    """Images per second of every phase, one point a round."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    names = [f"{kind}_{size}" for size in SIZES for kind in ("bare", "bare_again", "platform")]
    for place, name in enumerate(names):
        axes.plot([place] * len(samples[name]), samples[name], "o", alpha=0.6)
    axes.set(xticks=range(len(names)), ylabel="images per second", ylim=(0, None))
    axes.set_xticklabels(names, rotation=20)
    axes.grid(alpha=0.3, axis="y")
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    rounds, seconds = (1, 5.0) if args.quick else (5, 12.0)
    samples = measure_celery(40 if args.quick else 300) | measure(rounds, seconds)
    config = {
        "rounds": rounds,
        "seconds": seconds,
        "clients": CLIENTS,
        "model": "emoji-turbo",
        "size": "64x64",
    }
    report.publish(args, "batching", config, figures_of(samples), dict(samples), plot_of(samples))


if __name__ == "__main__":
    main()
