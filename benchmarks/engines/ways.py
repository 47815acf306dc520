"""Every way that the engine can run on a device, each in a process of its own: images a second and peak memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DiffusionPipeline

from benchmarks.engines.calls import call, draw, tasks
from benchmarks.lib.apart import apart
from contracts.engine import BatchKey
from contracts.failures import OutOfMemory
from contracts.settings import WorkerSettings
from worker.engine.device import Device
from worker.engine.diffusers import DiffusersEngine
from worker.engine.errors import ModelLoadError

WAYS: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "attention flash": {"attention": "flash"},
    "attention xformers": {"attention": "xformers"},
    "attention sage": {"attention": "sage"},
    "attention sdpa": {"attention": "sdpa"},
    "attention math": {"attention": "math"},
    "bfloat16": {"precision": "bfloat16"},
    "float32": {"precision": "float32"},
    "int8 weights": {"quantise": "int8", "quality_floor_db": 0.0},
    "int8 dynamic": {"quantise": "int8-dynamic", "quality_floor_db": 0.0},
    "int8 dynamic compiled": {"quantise": "int8-dynamic", "quality_floor_db": 0.0, "compile": True},
    "fp8": {"quantise": "fp8", "quality_floor_db": 0.0},
    "CUDA graphs": {"graphs": "auto"},
    "calls of four": {"fixed_batch": 4},
    "tiny VAE": {"vae": "tiny"},
    "compiled": {"compile": True},
}


@dataclass(frozen=True, slots=True)
class Row:
    """One way at one batch size; or why not."""

    way: str
    batch: int
    images_per_s: float = 0.0
    peak_bytes: int | None = None
    reason: str = ""
    broke: bool = False
    """It did not refuse, it failed."""

    def __str__(self) -> str:
        peak = "-" if self.peak_bytes is None else f"{self.peak_bytes / 2**20:,.0f} MiB"
        told = self.reason or f"{self.images_per_s:10.2f} images/s {peak:>12}"
        return f"{self.way:20} batch {self.batch:3} {told}"


def rate(run: Callable[[], Any], batch: int, device: Device, seconds: float) -> tuple[float, int | None]:
    """Images a second over `seconds`, median of the runs, and the peak of memory. A first run is not counted."""
    run()
    device.begin_peak()
    took: list[float] = []
    until = time.perf_counter() + seconds
    while not took or time.perf_counter() < until:
        begun = time.perf_counter()
        run()
        took.append(time.perf_counter() - begun)
    return batch / statistics.median(took), device.peak_bytes()


def rows_of(
    way: str, run: Callable[[int], Any], sizes: list[int], device: Device, seconds: float
) -> list[Row]:
    """One way at every batch size, until it does not fit."""
    rows = []
    for size in sizes:
        try:
            rows.append(Row(way, size, *rate(lambda size=size: run(size), size, device, seconds)))  # type: ignore[misc]
        except (OutOfMemory, torch.OutOfMemoryError):
            rows.append(Row(way, size, reason="out of memory"))
        print(rows[-1], flush=True)
        if rows[-1].reason:
            break
    return rows


def engine_rows(
    way: str, settings: WorkerSettings, sizes: list[int], device: Device, seconds: float
) -> list[Row]:
    name = Path(settings.model).name
    try:
        # A device may lack the arithmetic, which is told before anything is loaded.
        engine = DiffusersEngine(settings, "sd-turbo" if "turbo" in name and "emoji" not in name else name)
        spec = engine.load()
    except (ModelLoadError, OutOfMemory) as error:
        row = Row(way, 0, reason=f"cannot run: {error}")
        print(row, flush=True)
        return [row]
    key = BatchKey(spec.name, spec.default_width, spec.default_height, guided=False)
    return rows_of(way, lambda size: draw(engine, key, tasks(size)), sizes, device, seconds)


def plain_rows(model: str, sizes: list[int], device: Device, seconds: float) -> list[Row]:
    """The library's pipeline as its documentation calls it, in the precision of the engine's default."""
    pipeline: Any = DiffusionPipeline.from_pretrained(model, dtype=device.dtype("auto"))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device.torch_name)
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    key = BatchKey("plain", side, side, guided=False)
    return rows_of("plain diffusers", lambda size: call(pipeline, key, tasks(size)), sizes, device, seconds)


def measure(
    model: str, tiny: str, device: Device, sizes: list[int], ways: list[str], seconds: float
) -> list[Row]:
    """The plain loop first, then the ways. `tiny`: what `DARKROOM_VAE` shall be where a way asks for the tiny decoder."""
    base = WorkerSettings.model_validate(
        {
            "model": model,
            "device": device.torch_name,
            "max_batch": max(sizes),
            "torch_threads": torch.get_num_threads(),
        }
    )
    rows = ended("plain diffusers", apart(plain_rows, model, sizes, device, seconds))
    for way in ways:
        asked = WAYS[way] | ({"vae": tiny} if "vae" in WAYS[way] else {})
        settings = base.model_copy(update=asked)
        rows += ended(way, apart(engine_rows, way, settings, sizes, device, seconds))
    return rows


def ended(way: str, measured: Future[list[Row]]) -> list[Row]:
    """The rows of a way; or that it broke, which does not hide the ways after it."""
    error = measured.exception()
    if error is None:
        return measured.result()
    row = Row(way, 0, reason=f"broke: {error!r}", broke=True)
    print(row, flush=True)
    return [row]
