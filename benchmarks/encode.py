"""What it costs to make files of pictures: CPU time per 512x512 image, against Pillow's default PNG.

    python -m benchmarks.encode --json out.json --html out.html

Two pictures: one of the embedded model's (flat, with sharp edges), and one that is as rough as a photograph (noise in octaves, and
grain). Rounds take the encoders in turn, so that the machine's moods fall on all alike, and Pillow's PNG twice (A/A): the ratio of the two tells
how far the figures can be trusted. CPU time, because encoders run beside the device's thread and compete for cores.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks import report
from benchmarks.lib import plots
from contracts.engine import Pixels
from worker.encode import Output, encode

SIDE = 512

Array = npt.NDArray[np.uint8]
Encoder = Callable[[Array], bytes]


def pictures() -> dict[str, Array]:
    """The pictures `(512, 512, 3)` by name."""
    grid = Image.open(report.ROOT / "models" / "emoji-turbo" / "grid.png").convert("RGB")
    random = np.random.default_rng(0)
    rough = np.zeros((SIDE, SIDE, 3), np.float32)
    for octave in (4, 8, 16, 32, 64, 128, 256):
        for channel in range(3):
            noise = Image.fromarray(random.normal(size=(octave, octave)).astype(np.float32))
            rough[..., channel] += (
                np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / octave**0.8
            )
    rough = (rough - rough.min()) / (rough.max() - rough.min()) * 255 + random.normal(0, 2, rough.shape)
    return {
        "embedded model": np.asarray(grid.crop((0, 0, SIDE, SIDE))),
        "rough": rough.clip(0, 255).astype(np.uint8),
    }


def pillow_png(rgb: Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG")
    return file.getvalue()


def ours(output: Output) -> Encoder:
    return lambda rgb: encode(Pixels(rgb.shape[1], rgb.shape[0], rgb.tobytes()), output).data


ENCODERS: dict[str, Encoder] = {
    "pillow png": pillow_png,
    "pillow png again": pillow_png,
    "png": ours(Output("png")),
    "jpeg": ours(Output("jpeg")),
    "webp": ours(Output("webp")),
    "webp lossless": ours(Output("webp", lossless=True)),
}


def cpu_ms(encoder: Encoder, rgb: Array, repeats: int) -> float:
    begun = time.process_time()
    for _ in range(repeats):
        encoder(rgb)
    return (time.process_time() - begun) * 1000 / repeats


def figures_of(samples: dict[str, list[float]], sizes: dict[str, int]) -> dict[str, float]:
    """Speed-ups over Pillow's PNG: for each picture the ratio of medians; the figure is that of the worse picture."""
    names = sorted({name.partition("/")[0] for name in samples})
    middle = {name: statistics.median(values) for name, values in samples.items()}

    def speedup(encoder: str) -> float:
        return min(middle[f"{name}/pillow png"] / middle[f"{name}/{encoder}"] for name in names)

    figures = {"control_ratio": speedup("pillow png again")}
    for encoder in ("png", "jpeg", "webp", "webp lossless"):
        name = encoder.replace(" ", "_")
        figures[f"{name}_speedup"] = speedup(encoder)
        shares = [sizes[f"{each}/{encoder}"] / sizes[f"{each}/pillow png"] for each in names]
        figures[f"{name}_size_ratio"] = max(shares)
        figures[f"{name}_ms"] = max(middle[f"{each}/{encoder}"] for each in names)
    return figures


def plot_of(samples: dict[str, list[float]]) -> Any:
    figure, axes = plots.canvas(figsize=(8, 4))
    axes.barh(list(samples), [statistics.median(values) for values in samples.values()])
    axes.set(xlabel="CPU milliseconds per image", xscale="log")
    axes.grid(alpha=0.3, axis="x")
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    rounds, repeats = (7, 2) if args.quick else (25, 5)
    found = pictures()
    samples: dict[str, list[float]] = {f"{name}/{each}": [] for name in found for each in ENCODERS}
    sizes = {f"{name}/{each}": len(ENCODERS[each](rgb)) for name, rgb in found.items() for each in ENCODERS}
    for _, (name, rgb), (each, encoder) in product(range(rounds), found.items(), ENCODERS.items()):
        samples[f"{name}/{each}"].append(cpu_ms(encoder, rgb, repeats))
    config = {"size": f"{SIDE}x{SIDE}", "rounds": rounds, "repeats": repeats}
    rounded = {name: [round(value, 4) for value in values] for name, values in samples.items()}
    report.publish(args, "encode", config, figures_of(samples, sizes), rounded, plot_of(samples))


if __name__ == "__main__":
    main()
