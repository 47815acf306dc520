"""The engine in this process and the library's plain pipeline in another, called with the same tasks, timed by turns."""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from benchmarks import make_checkpoint
from benchmarks.lib.orders import orders
from contracts.engine import Batch, BatchKey, ImageTask, Pixels
from contracts.settings import WorkerSettings
from worker.engine.diffusers import DiffusersEngine

BATCH = 8
COLOURS = ("blue", "yellow", "pink", "green", "red", "white", "orange", "purple")
_count = itertools.count()


def tasks(size: int = BATCH, steps: int = 1) -> list[ImageTask]:
    """Prompts that nobody has asked for before: no embedding of theirs is known."""
    run = next(_count)
    return [
        ImageTask(f"a rocket number {run} on a {COLOURS[i % 8]} background", "", i, steps)
        for i in range(size)
    ]


def draw(engine: DiffusersEngine, key: BatchKey, wanted: list[ImageTask]) -> list[Pixels]:
    """One-step images through the engine."""
    answers = engine.advance(Batch(key, tuple(range(len(wanted))), dict(enumerate(wanted))))
    return [each for each in answers if isinstance(each, Pixels)]


def call(pipeline: Any, key: BatchKey, wanted: list[ImageTask]) -> Any:
    """The same images through the library's pipeline, as its documentation calls it, to bytes."""
    images = pipeline(
        prompt=[task.prompt for task in wanted],
        width=key.width,
        height=key.height,
        num_inference_steps=1,
        guidance_scale=0.0,
        generator=[torch.Generator("cpu").manual_seed(task.seed) for task in wanted],
        output_type="np",
    ).images
    return (images * 255).round().astype(np.uint8)


def serve_plain(connection: Connection[Any, Any], folder: Path) -> None:
    """The other process: draws what it is sent, answers with the seconds that it took."""
    torch.set_num_threads(1)
    pipeline = plain_pipeline(folder)
    while (asked := connection.recv()) is not None:
        connection.send(seconds(lambda asked=asked: call(pipeline, *asked)))  # type: ignore[misc]


@contextmanager
def plain(folder: Path) -> Iterator[Callable[[BatchKey, list[ImageTask]], float]]:
    """Seconds of a plain call of the library's pipeline, in its own process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=serve_plain, args=(theirs, folder))
    child.start()
    theirs.close()

    def timed(key: BatchKey, wanted: list[ImageTask]) -> float:
        ours.send((key, wanted))
        return float(ours.recv())

    try:
        yield timed
    finally:
        with suppress(OSError):
            ours.send(None)
        child.join()


def opened(settings: WorkerSettings, name: str) -> DiffusersEngine:
    engine = DiffusersEngine(settings, name)
    engine.load()
    return engine


def seconds(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def ratios(slow: Callable[[], Any], fast: Callable[[], Any], rounds: int) -> list[float]:
    """How many times longer `slow` takes than `fast`, pair by pair."""
    return timed_ratios(lambda: seconds(slow), lambda: seconds(fast), rounds)


def timed_ratios(slow: Callable[[], float], fast: Callable[[], float], rounds: int) -> list[float]:
    """As `ratios`, of what tells its seconds itself. A first pair is not counted; who is first takes turns."""
    slow(), fast()
    arms, found = {"fast": fast, "slow": slow}, []
    for order in orders(list(arms), rounds):
        took = {name: arms[name]() for name in order}
        found.append(took["slow"] / took["fast"])
    return found


def plain_pipeline(folder: Path) -> Any:
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def checkpoint(folder: Path | None, device: str = "cpu") -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        yield make_checkpoint.make(Path(name), device=device)
