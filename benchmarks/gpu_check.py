"""What a GPU gives: images a second and peak memory by batch size, for every way that the engine can run on it.

    python -m benchmarks.gpu_check [--model FOLDER_OR_HUB_ID] [--json out.json --html out.html]

`make gpu-check` on a machine with one; some ten minutes. Without `--model` it makes SD-Turbo's layout with random weights, which
is as fast as the real one. A plain diffusers loop runs at every batch size before the engine, and each way in a process of its own. A way
that refuses this device is a line with the reason. First come checks of the pictures, of memory and of a lost device
(`gpu_correctness`). A check that fails and a way that breaks are exit code 1 at the end.
On a CPU (`--device cpu`) it checks itself.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from diffusers import DiffusionPipeline

from benchmarks import gpu_correctness, make_checkpoint, report
from benchmarks.apart import apart
from benchmarks.engine import call, checkpoint, draw, tasks
from contracts.engine import BatchKey
from contracts.failures import OutOfMemory
from contracts.settings import WorkerSettings
from worker.engine.device import Device, pick
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


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--model", help="by default SD-Turbo's layout with random weights")
    parser.add_argument("--tiny", default="tiny", help="its tiny decoder: a folder, a hub id")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each row")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="of batches")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    device = pick(args.device)
    if device.kind == "cpu" and args.device == "auto":
        raise SystemExit("There is no GPU here. --device cpu runs the check itself on the processor.")
    if args.quick:
        args.sizes, args.seconds, args.ways = [1, 2], 1.0, ["default", "attention math", "attention xformers"]
    print(device.name)
    found = gpu_correctness.check(device)
    with (
        nullcontext(args.model) if args.model else checkpoint(None, device.torch_name) as model,
        TemporaryDirectory() as tiny,
    ):
        if not args.model:
            make_checkpoint.tiny(Path(tiny))
        rows = measure(
            str(model), args.tiny if args.model else tiny, device, args.sizes, args.ways, args.seconds
        )
    figures = {f"{row.way} {row.batch}": row.images_per_s for row in rows if not row.reason}
    best = {way: max(row.images_per_s for row in rows if row.way == way) for way in {row.way for row in rows}}
    if best.get("default") and best["plain diffusers"]:
        figures["engine_over_pipeline"] = best["default"] / best["plain diffusers"]
    if len(ran := [row for row in rows if row.way == "default" and not row.reason]) > 1:
        # What `darkroom plan --cost` reads: a pass of n images takes a + b n seconds.
        sizes = [row.batch for row in ran]
        figures["b_s"], figures["a_s"] = np.polyfit(sizes, [row.batch / row.images_per_s for row in ran], 1)
    samples = {str(n): [str(row)] for n, row in enumerate(rows)} | {"checks": [str(each) for each in found]}
    config = {"device": device.name, "torch": torch.__version__, "sizes": args.sizes}
    report.publish(args, "gpu_check", config, figures, samples, plot(rows))
    sys.exit(not all(each.holds for each in found) or any(row.broke for row in rows))


def plot(rows: list[Row]) -> Any:
    """Images a second over the batch size, by way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for way in dict.fromkeys(row.way for row in rows):
        ran = [row for row in rows if row.way == way and not row.reason]
        if ran:
            style: dict[str, Any] = {"color": "black", "linestyle": "--"} if way == "plain diffusers" else {}
            axes.plot([r.batch for r in ran], [r.images_per_s for r in ran], marker=".", label=way, **style)
    axes.set(xlabel="batch size", ylabel="images a second", xscale="log", ylim=0)
    sizes = sorted({row.batch for row in rows if row.batch})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


if __name__ == "__main__":
    main()
