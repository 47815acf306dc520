"""What a GPU gives: images a second and peak memory by batch size, for every way that the engine can run on it.

    python -m benchmarks.gpu_check [--model FOLDER_OR_HUB_ID] [--json out.json --html out.html]

`make gpu-check` on a machine with one; some ten minutes. Without `--model` it makes SD-Turbo's layout with random weights, which
is as fast as the real one. A plain diffusers loop runs at every batch size before the engine, and each way in a process of its own. A way
that refuses this device is a line with the reason. First come checks of the pictures, of memory and of a lost device
(`benchmarks/engines/correctness.py`). A check that fails and a way that breaks are exit code 1 at the end.
On a CPU (`--device cpu`) it checks itself.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks import make_checkpoint, report
from benchmarks.engines import correctness
from benchmarks.engines.calls import checkpoint
from benchmarks.engines.ways import WAYS, Row, measure
from benchmarks.lib import plots
from worker.engine.device import pick


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
    found = correctness.check(device)
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
    figure, axes = plots.canvas(figsize=(9, 5), layout="constrained")
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
