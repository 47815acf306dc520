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

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from benchmarks import celery_floor, report
from benchmarks.engines.bare import bare_rate
from benchmarks.lib import plots
from benchmarks.lib.cores import isolate, stay_off
from benchmarks.lib.platform import EMBEDDED, QUIET, Platform, served
from benchmarks.lib.ratios import means, ratios, spread
from benchmarks.lib.saturate import CLIENTS, draw_rate
from cli.services.rabbitmq import RabbitServer
from contracts.settings import WorkerSettings
from worker.engine.host import EngineHost

SIZES = (1, 8)


def measure(rounds: int, seconds: float) -> dict[str, list[float]]:
    """Samples of each phase, round by round: images per second, and mean batches. Platforms that are idle cost nothing."""
    samples: dict[str, list[float]] = {}
    stay_off()
    host = EngineHost(WorkerSettings(model=EMBEDDED))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        stack.callback(host.kill)
        host.start()
        folder = Path(name)
        rabbit = stack.enter_context(served(RabbitServer(folder / "rabbitmq")))
        running = {}
        for size in SIZES:
            settings = {"DARKROOM_MODEL_NAME": f"emoji-turbo-{size}", "DARKROOM_MAX_BATCH": str(size)}
            settings |= {**QUIET, "DARKROOM_MODEL": EMBEDDED}
            opened = Platform.open(settings, folder / str(size), broker=rabbit, webhooks=True)
            running[size] = stack.enter_context(opened)
        bare = [] if host.pid is None else [psutil.Process(host.pid)]
        isolate([*bare, *(each.engine() for each in running.values())])
        for _ in range(rounds):
            for size in SIZES:
                rate, batches = draw_rate(running[size].url, seconds)
                phases = {
                    f"bare_{size}": bare_rate(host, size, seconds / 2),
                    f"bare_again_{size}": bare_rate(host, size, seconds / 2),
                    f"platform_{size}": rate,
                    f"batch_{size}": statistics.mean(batches),
                }
                for phase, value in phases.items():
                    samples.setdefault(phase, []).append(value)
    return samples


def figures_of(samples: dict[str, list[float]]) -> dict[str, float]:
    small, large = SIZES
    bare = {size: means(samples[f"bare_{size}"], samples[f"bare_again_{size}"]) for size in SIZES}
    delivered = ratios(samples[f"platform_{large}"], samples[f"platform_{small}"])
    possible = ratios(bare[large], bare[small])
    control = [
        value for size in SIZES for value in ratios(samples[f"bare_{size}"], samples[f"bare_again_{size}"])
    ]
    added, celery = statistics.median(samples["added_ms"]), statistics.median(samples["celery_ms"])
    return {
        "batch_gain_delivered": statistics.median(ratios(delivered, possible)),
        "batch_gain_bare": statistics.median(possible),
        "batch_gain_platform": statistics.median(delivered),
        "platform_over_bare": statistics.median(ratios(samples[f"platform_{large}"], bare[large])),
        "platform_over_bare_batch_1": statistics.median(ratios(samples[f"platform_{small}"], bare[small])),
        "mean_batch": statistics.median(samples[f"batch_{large}"]),
        "added_p50_over_celery": added / celery,
        "added_p50_ms": added,
        "celery_p50_ms": celery,
        "control_ratio": statistics.median(control),
        "control_spread": spread(control),
    }


def plot_of(samples: dict[str, list[float]]) -> Any:
    """Images per second of every phase, one point a round."""
    figure, axes = plots.canvas(figsize=(8, 4))
    names = [f"{kind}_{size}" for size in SIZES for kind in ("bare", "bare_again", "platform")]
    plots.points(axes, {name: samples[name] for name in names}, "images per second", rotation=20)
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    rounds, seconds = (1, 5.0) if args.quick else (5, 12.0)
    samples = celery_floor.measure(40 if args.quick else 300) | measure(rounds, seconds)
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
