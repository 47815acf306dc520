"""What a GPU gives: images a second and peak memory by batch size, for every way that the engine can run on it.

    python -m benchmarks.gpu_check [--model FOLDER_OR_HUB_ID] [--json out.json --html out.html]

`make gpu-check` on a machine with one; some ten minutes. Without `--model` it makes SD-Turbo's layout with random weights, which
is as fast as the real one. A plain diffusers loop runs at every batch size beside the engine. A way that cannot run is a line
with the reason. On a CPU (`--device cpu`) it checks itself.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DiffusionPipeline

from benchmarks import report
from benchmarks.engine import call, checkpoint, draw, tasks
from contracts.engine import BatchKey
from contracts.errors import OutOfMemory
from contracts.settings import WorkerSettings
from worker.engine.device import Device, pick
from worker.engine.diffusers import DiffusersEngine
from worker.engine.errors import CannotLoad

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
    except (CannotLoad, OutOfMemory) as error:
        row = Row(way, 0, reason=f"cannot run: {error}")
        print(row, flush=True)
        return [row]
    key = BatchKey(spec.name, spec.default_width, spec.default_height, guided=False)
    return rows_of(way, lambda size: draw(engine, key, tasks(size)), sizes, device, seconds)


def plain_rows(model: str, side: int, sizes: list[int], device: Device, seconds: float) -> list[Row]:
    """The library's pipeline as its documentation calls it, in the precision of the engine's default."""
    pipeline: Any = DiffusionPipeline.from_pretrained(model, dtype=device.dtype("auto"))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device.torch_name)
    key = BatchKey("plain", side, side, guided=False)
    return rows_of("plain diffusers", lambda size: call(pipeline, key, tasks(size)), sizes, device, seconds)


def released(device: Device) -> None:
    gc.collect()
    device.free_cache()


def measure(model: str, device: Device, sizes: list[int], ways: list[str], seconds: float) -> list[Row]:
    base = WorkerSettings.model_validate(
        {
            "model": model,
            "device": device.torch_name,
            "max_batch": max(sizes),
            "torch_threads": torch.get_num_threads(),
        }
    )
    rows: list[Row] = []
    for way in ways:
        rows += engine_rows(way, base.model_copy(update=WAYS[way]), sizes, device, seconds)
        released(device)
    probe = DiffusersEngine(base, Path(model).name)
    side = probe.load().default_width
    del probe
    released(device)
    return rows + plain_rows(model, side, sizes, device, seconds)


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--model", help="by default SD-Turbo's layout with random weights")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = pick(args.device)
    if device.kind == "cpu" and args.device == "auto":
        raise SystemExit("There is no GPU here. --device cpu runs the check itself on the processor.")
    sizes = [1, 2] if args.quick else [1, 2, 4, 8, 16]
    ways = ["default", "attention math", "attention xformers"] if args.quick else list(WAYS)
    print(device.name)
    if args.model:
        rows = measure(args.model, device, sizes, ways, 1 if args.quick else 5)
    else:
        with checkpoint(None) as folder:
            rows = measure(str(folder), device, sizes, ways, 5)
    figures = {f"{row.way} {row.batch}": row.images_per_s for row in rows if not row.reason}
    best = {way: max(r.images_per_s for r in rows if r.way == way) for way in ("default", "plain diffusers")}
    figures["engine_over_pipeline"] = best["default"] / best["plain diffusers"]
    samples = {str(n): [str(row)] for n, row in enumerate(rows)}
    report.publish(args, "gpu_check", {"device": device.name, "sizes": sizes}, figures, samples)


if __name__ == "__main__":
    main()
