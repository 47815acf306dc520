"""What the engine makes of the processor: its speed over a plain diffusers call, and what each of its options costs and gives.

    python -m benchmarks.engine --json out.json --html out.html [--full FOLDER]

Everything runs on one thread, in interleaved pairs; a figure is the median of the pairs' ratios, and `control_ratio` is that of a
thing with itself. The plain diffusers pipeline runs in a process of its own, where nothing of ours has touched the library. Figures that begin with `full_` are of SD-Turbo's true layout and sizes with random
weights (`benchmarks.make_checkpoint`), made in a temporary folder unless `--full` names one; `--quick` leaves them out, and
`--parts full` is them alone.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DiffusionPipeline
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import make_checkpoint, report
from contracts.engine import Batch, BatchKey, ImageTask, Pixels
from contracts.settings import WorkerSettings
from worker.engine import checkpoint as checkpoints
from worker.engine import quality, quantised_layers
from worker.engine.diffusers import DiffusersEngine
from worker.engine.quality import psnr_db

MODELS = report.ROOT / "models"
KEY = BatchKey("emoji-turbo", 64, 64, guided=False)
BATCH = 8
PARTS = ("attention", "embedded", "compile", "full")
COLOURS = ("blue", "yellow", "pink", "green", "red", "white", "orange", "purple")
HEADS, WIDTH = 5, 64
"""Of SD-Turbo's largest attention, over 4,096 image tokens at 512 x 512."""
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
    found = []
    for turn in range(rounds):
        if turn % 2:
            one, other = slow(), fast()
        else:
            other, one = fast(), slow()
        found.append(one / other)
    return found


def plain_pipeline(folder: Path) -> Any:
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Embedded:
    """Figures of the embedded model."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._settings = WorkerSettings(model=str(MODELS / "emoji-turbo"), device="cpu")
        begun = time.perf_counter()
        self._engine = opened(self._settings, "emoji-turbo")
        self._load_s = time.perf_counter() - begun

    def measure(self) -> dict[str, list[float]]:
        engine, rounds = self._engine, self._rounds
        samples = {"load_s": [self._load_s]}
        with plain(MODELS / "emoji-turbo") as pipeline:
            for size, name in ((BATCH, "engine_over_pipeline"), (1, "engine_over_pipeline_alone")):
                samples[name] = timed_ratios(
                    lambda size=size: pipeline(KEY, tasks(size)),  # type: ignore[misc]
                    lambda size=size: seconds(lambda: draw(engine, KEY, tasks(size))),  # type: ignore[misc]
                    rounds,
                )
        samples["control_ratio"] = ratios(
            lambda: draw(engine, KEY, tasks()), lambda: draw(engine, KEY, tasks()), rounds
        )
        known = tasks()
        samples["known_prompts_factor"] = ratios(
            lambda: draw(engine, KEY, tasks()), lambda: draw(engine, KEY, known), rounds
        )
        return samples | self._text() | self._options()

    def _text(self) -> dict[str, list[float]]:
        """Eight prompts, eight seeds each: how many of the 64 went through the text encoder."""
        prompts, before = self._engine.prompts, (self._engine.prompts.encoded, self._engine.prompts.skipped)
        wanted = tasks()
        for seed in range(8):
            draw(self._engine, KEY, [ImageTask(task.prompt, "", seed) for task in wanted])
        return {
            "text_encoded": [prompts.encoded - before[0]],
            "text_skipped": [prompts.skipped - before[1]],
        }

    def _options(self) -> dict[str, list[float]]:
        """Each against the engine as it is by default: above 1 it is faster. And what pictures it makes."""
        samples: dict[str, list[float]] = {}
        wanted = tasks()
        own, clip = draw(self._engine, KEY, wanted), quality.Clip(str(MODELS / "emoji-clip"))
        options: dict[str, dict[str, Any]] = {
            "bf16": {"precision": "bfloat16"},
            "int8": {"quantise": "int8"},
            "int8_dynamic": {"quantise": "int8-dynamic"},
            "math": {"attention": "math"},
        }
        for name, changes in options.items():
            engine = opened(self._settings.model_copy(update=changes), "emoji-turbo")
            samples[f"{name}_factor"] = ratios(
                lambda: draw(self._engine, KEY, tasks()),
                lambda engine=engine: draw(engine, KEY, tasks()),  # type: ignore[misc]
                max(3, self._rounds // 3),
            )
            if name != "math":
                drawn = draw(engine, KEY, wanted)
                samples[f"{name}_psnr_db"] = [psnr_db(a, b) for a, b in zip(own, drawn, strict=True)]
                samples[f"{name}_clip_similarity"] = clip.similarity(own, drawn)
            if name == "int8":
                whole = plain_pipeline(MODELS / "emoji-turbo").unet
                sizes = [quantised_layers.size_bytes(each) for each in (whole, engine.pipeline.unet)]
                samples["int8_shrink"] = [sizes[0] / sizes[1]]
        return samples

    def compiled(self) -> dict[str, list[float]]:
        """The compiler's minutes and what they buy."""
        begun = time.perf_counter()
        engine = opened(self._settings.model_copy(update={"compile": True}), "emoji-turbo")
        took = time.perf_counter() - begun
        factor = ratios(
            lambda: draw(self._engine, KEY, tasks()), lambda: draw(engine, KEY, tasks()), self._rounds
        )
        return {"compile_factor": factor, "compile_load_s": [took]}


def attend(kernel: SDPBackend, tokens: int) -> Callable[[], Any]:
    torch.manual_seed(0)
    q = torch.randn(1, HEADS, tokens, WIDTH)

    def run() -> Any:
        with torch.inference_mode(), sdpa_kernel(kernel):
            return F.scaled_dot_product_attention(q, q, q)

    return run


def peak_rss_bytes(run: Callable[[], Any]) -> int:
    """What `run` adds to the process's resident memory at its peak (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def attention(rounds: int, sizes: list[int]) -> dict[str, list[float]]:
    """Flash against math: time at SD-Turbo's largest attention, memory over tokens (MiB, in the order of `sizes`)."""
    largest = max(sizes)
    flash, math = SDPBackend.FLASH_ATTENTION, SDPBackend.MATH
    samples = {"flash_speedup": ratios(attend(math, largest), attend(flash, largest), rounds)}
    for name, kernel in (("flash", flash), ("math", math)):
        samples[f"{name}_mib"] = [peak_rss_bytes(attend(kernel, each)) / 2**20 for each in sizes]
    return samples


def full(folder: Path, rounds: int) -> dict[str, list[float]]:
    """SD-Turbo's sizes at 512 x 512: the engine against the pipeline, memory against the plan, int8, the tiny decoder.

    A picture takes most of a minute on one core, so every one that is drawn serves more than one figure.
    """
    samples: dict[str, list[float]] = {}
    key = BatchKey(make_checkpoint.NAME, 512, 512, guided=False)
    settings = WorkerSettings(model=str(folder), device="cpu", max_batch=2)
    begun = time.perf_counter()
    engine = opened(settings, "sd-turbo")
    record("full_load_s", samples, [time.perf_counter() - begun])
    plan = engine.plan
    grown = peak_rss_bytes(lambda: draw(engine, key, tasks(2)))
    samples["full_image_mib_planned"] = [max(plan.denoise_bytes, plan.decode_bytes) / 2**20]
    record("full_image_mib_measured", samples, [grown / 2 / 2**20])
    with plain(folder) as other:
        found = timed_ratios(
            lambda: other(key, tasks(1)), lambda: seconds(lambda: draw(engine, key, tasks(1))), rounds
        )
    record("full_engine_over_pipeline", samples, found)
    latents, tiny, own = torch.randn(1, 4, 64, 64), AutoencoderTiny().eval(), engine.pipeline.vae
    with torch.inference_mode():
        found = ratios(lambda: own.decode(latents), lambda: tiny.decode(latents), rounds)
    record("tiny_vae_factor", samples, found)
    wanted = tasks(1)
    return samples | eight_bits(folder, settings, key, wanted, draw(engine, key, wanted))


def eight_bits(
    folder: Path, settings: WorkerSettings, key: BatchKey, wanted: list[ImageTask], whole: list[Pixels]
) -> dict[str, list[float]]:
    """The weights of the full-size UNet in eight bits, as a worker has them, over those of its files; and the picture that they make."""
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        # The gate draws every prompt twice: one is enough here.
        prompts = Path(name) / "prompts.txt"
        prompts.write_text("a rocket on a yellow background\n")
        changes = {"quantise": "int8", "quality_prompts": prompts}
        engine = opened(settings.model_copy(update=changes), "sd-turbo")
    size = 4 * checkpoints.read(folder).parameters["unet"]
    record("full_int8_shrink", samples, [size / quantised_layers.size_bytes(engine.pipeline.unet)])
    eighth = draw(engine, key, wanted)
    record("full_int8_psnr_db", samples, [psnr_db(*pair) for pair in zip(whole, eighth, strict=True)])
    return samples


def record(name: str, samples: dict[str, list[float]], values: list[float]) -> None:
    """Kept, and said at once: the whole takes minutes."""
    samples[name] = values
    print(f"{name:32} {statistics.median(values):.3f}", flush=True)


@contextmanager
def checkpoint(folder: Path | None, device: str = "cpu") -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        yield make_checkpoint.make(Path(name), device=device)


def plot_of(samples: dict[str, list[float]], sizes: list[int]) -> Any:
    """Memory of attention over tokens, and the factors as bars."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    for name in ("flash", "math") if "flash_mib" in samples else ():
        left.plot(sizes, samples[f"{name}_mib"], "o-", label=name)
    left.set(xlabel="image tokens", ylabel="memory of one attention, MiB", title="SD-Turbo's heads (5 x 64)")
    if left.lines:
        left.legend()
    factors = {
        name: statistics.median(values)
        for name, values in samples.items()
        if name.endswith(("_factor", "_over_pipeline", "_speedup", "_alone", "control_ratio"))
    }
    right.barh(list(factors), list(factors.values()))
    right.axvline(1, color="grey")
    right.invert_yaxis()
    right.set(xlabel="times as fast")
    figure.tight_layout()
    return figure


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--full", type=Path, metavar="FOLDER", help="a folder of benchmarks.make_checkpoint")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--full-rounds", type=int, default=1, help="pairs with the full-size model")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="by default all; --quick leaves out two")
    args: argparse.Namespace = parser.parse_args()
    rounds = 5 if args.quick else args.rounds
    parts = args.parts or (PARTS[:2] if args.quick else PARTS)
    torch.set_num_threads(1)
    sizes = [512, 1024, 2048] if args.quick else [512, 1024, 2048, 3072, 4096]
    samples: dict[str, list[float]] = {}
    if "attention" in parts:
        samples |= attention(3 if args.quick else 10, sizes)
    if "embedded" in parts or "compile" in parts:
        embedded = Embedded(rounds)
        samples |= embedded.measure() if "embedded" in parts else {}
        samples |= embedded.compiled() if "compile" in parts else {}
    if "full" in parts:
        with checkpoint(args.full) as folder:
            samples |= full(folder, args.full_rounds)
    figures = {
        name: values[-1] if name.endswith("_mib") else statistics.median(values)
        for name, values in samples.items()
    }
    config = {"batch": BATCH, "rounds": rounds, "threads": 1, "tokens": sizes, "parts": list(parts)}
    report.publish(args, "engine", config, figures, samples, plot_of(samples, sizes))


if __name__ == "__main__":
    main()
