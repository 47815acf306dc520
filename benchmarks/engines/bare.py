"""The engine's process in a plain loop."""

from __future__ import annotations

from typing import Final

from benchmarks.lib.asking import fresh
from contracts.engine import Batch, BatchKey, ImageTask
from worker.engine.host import EngineHost
from worker.engine.messages import Done

KEY: Final = BatchKey("emoji-turbo", 64, 64, guided=False)


def bare_rate(host: EngineHost, size: int, seconds: float) -> float:
    """Images per second of the engine in a plain loop with batches of `size`; by its own clock, so without our pipe."""
    images, busy = 0, 0.0
    while busy < seconds:
        made = [fresh() for _ in range(size)]
        tasks = {each["seed"]: ImageTask(each["prompt"], "", each["seed"]) for each in made}
        done = host.run(Batch(KEY, tuple(tasks), tasks))
        if not isinstance(done, Done):
            raise RuntimeError(done.reason)
        images, busy = images + size, busy + done.seconds
    return images / busy
