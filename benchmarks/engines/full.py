"""SD-Turbo's true layout and sizes, with random weights: attention, memory, eight bits, the tiny decoder."""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import make_checkpoint
from benchmarks.engines.calls import draw, opened, plain, ratios, seconds, tasks, timed_ratios
from contracts.engine import BatchKey, ImageTask, Pixels
from contracts.settings import WorkerSettings
from worker.engine import checkpoint as checkpoints
from worker.engine import quantised_layers
from worker.engine.quality import psnr_db

HEADS, WIDTH = 5, 64
"""Of SD-Turbo's largest attention, over 4,096 image tokens at 512 x 512."""


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
    report_values("full_load_s", samples, [time.perf_counter() - begun])
    plan = engine.plan
    grown = peak_rss_bytes(lambda: draw(engine, key, tasks(2)))
    samples["full_image_mib_planned"] = [max(plan.denoise_bytes, plan.decode_bytes) / 2**20]
    report_values("full_image_mib_measured", samples, [grown / 2 / 2**20])
    with plain(folder) as other:
        found = timed_ratios(
            lambda: other(key, tasks(1)), lambda: seconds(lambda: draw(engine, key, tasks(1))), rounds
        )
    report_values("full_engine_over_pipeline", samples, found)
    latents, tiny, own = torch.randn(1, 4, 64, 64), AutoencoderTiny().eval(), engine.pipeline.vae
    with torch.inference_mode():
        found = ratios(lambda: own.decode(latents), lambda: tiny.decode(latents), rounds)
    report_values("tiny_vae_factor", samples, found)
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
    report_values("full_int8_shrink", samples, [size / quantised_layers.size_bytes(engine.pipeline.unet)])
    eighth = draw(engine, key, wanted)
    report_values("full_int8_psnr_db", samples, [psnr_db(*pair) for pair in zip(whole, eighth, strict=True)])
    return samples


def report_values(name: str, samples: dict[str, list[float]], values: list[float]) -> None:
    """Kept, and said at once: the whole takes minutes."""
    samples[name] = values
    print(f"{name:32} {statistics.median(values):.3f}", flush=True)
