"""Stock Celery on RabbitMQ with one empty task: the least that anybody pays for a task queue without our care.

Everything is Celery's default but the worker's size (one process) and the result backend (`rpc://`, which answers over RabbitMQ, too):
without one `get()` has nothing to wait for.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery

from benchmarks import report
from benchmarks.lib.asking import connect, draw, fresh
from benchmarks.lib.platform import EMBEDDED, QUIET, Platform
from cli.services import process

BROKER: str = os.environ.get("DARKROOM_BROKER_URL", "amqp://guest:guest@127.0.0.1:5672//")
READY_S = 60.0
WARM_UP = 20

app = Celery("floor", broker=BROKER, backend="rpc://")


def nothing() -> None:
    """The empty task."""


empty: Any = app.task(nothing, name="floor.nothing")


@contextmanager
def serving(url: str, folder: Path) -> Iterator[Any]:
    """A worker of the empty task on the broker at `url`, and the task, bound to that broker."""
    environ = {**os.environ, "DARKROOM_BROKER_URL": url, "PYTHONPATH": str(report.ROOT)}
    module = "benchmarks.celery_floor"
    command = [sys.executable, "-m", "celery", "-A", module, "worker", "--concurrency", "1", "-l", "WARNING"]
    worker = process.launch(command, folder, environ)
    app.conf.broker_url = url
    try:
        empty.delay().get(timeout=READY_S)
        yield empty
    finally:
        process.end(worker)
        app.close()


def roundtrip_ms(task: Any) -> float:
    """Milliseconds of one `delay().get()`."""
    begun = time.perf_counter()
    task.delay().get(timeout=30)
    return (time.perf_counter() - begun) * 1000


def measure(count: int) -> dict[str, list[float]]:
    """Milliseconds at idle: what the platform adds to the engine, and an empty task of stock Celery, by turns."""
    samples: dict[str, list[float]] = {"added_ms": [], "celery_ms": []}
    with (
        Platform.open({**QUIET, "DARKROOM_MODEL": EMBEDDED}, webhooks=True) as platform,
        serving(platform.environ["DARKROOM_BROKER_URL"], platform.folder / "celery") as task,
    ):
        connection = connect(platform.url)
        for number in range(-WARM_UP, count):
            took_ms, job = draw(connection, fresh())
            celery_ms = roundtrip_ms(task)
            if number >= 0:
                samples["added_ms"].append(took_ms - job["timings"]["batch_ms"])
                samples["celery_ms"].append(celery_ms)
        connection.close()
    return samples
