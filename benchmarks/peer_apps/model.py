"""What every peer serves: the platform's own engine and encoder, on the embedded model in one step.

Runs in the peers' environments.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.peer_apps.options import CORE, MAX_BATCH, SIDE
from contracts.engine import Batch, BatchKey, ImageTask, Pixels
from contracts.settings import WorkerSettings
from worker.engine.diffusers import DiffusersEngine
from worker.png import png as written

NAME: Final = "emoji-turbo"
_KEY: Final = BatchKey(NAME, SIDE, SIDE, guided=False)


class Model:
    """The loaded engine, warm, on the core of `PEER_CORE`. Made in the process that draws, and used by one thread of it."""

    def __init__(self) -> None:
        folder = Path(__file__).parents[2] / "models" / NAME
        self._engine = DiffusersEngine(
            WorkerSettings(model=str(folder), device="cpu", max_batch=MAX_BATCH), NAME
        )
        self._numbers = itertools.count()
        self._engine.load()
        self.draw(["warm up"] * MAX_BATCH, [0] * MAX_BATCH)
        pin()

    def draw(self, prompts: list[str], seeds: list[int]) -> list[bytes]:
        """One batch as PNG files, in order."""
        return [png(rgb) for rgb in self.pixels(prompts, seeds)]

    def pixels(self, prompts: list[str], seeds: list[int]) -> list[bytes]:
        """One batch as RGB of 64 x 64, row by row."""
        tasks = {
            next(self._numbers): ImageTask(prompt, "", seed, num_inference_steps=1, guidance_scale=0.0)
            for prompt, seed in zip(prompts, seeds, strict=True)
        }
        drawn = self._engine.advance(Batch(_KEY, tuple(tasks), tasks))
        pictures = [each.rgb for each in drawn if isinstance(each, Pixels)]
        if len(pictures) != len(tasks):
            raise RuntimeError("The engine drew no picture.")
        return pictures


def png(rgb: bytes) -> bytes:
    """RGB of 64 x 64 as a PNG file, by the encoder of the platform's worker."""
    return written(np.frombuffer(rgb, np.uint8).reshape(SIDE, SIDE, 3))


def pin() -> None:
    """All threads of this process to the core of `PEER_CORE`, and with them those to come."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {int(os.environ[CORE])})
