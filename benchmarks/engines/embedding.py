"""What an embedding costs beside the image that it is of, and which neighbours half precision moves. For `benchmarks/search.py`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import make_checkpoint, make_clip
from contracts.engine import Batch, BatchKey, ImageTask
from contracts.settings import WorkerSettings
from worker.engine import clip_source, embedding
from worker.engine.clip_source import ClipSource
from worker.engine.device import Device
from worker.engine.diffusers import DiffusersEngine

SIDE: Final = 512
"""Pixels of a side of an image of SD-Turbo."""
EMBEDDINGS: Final = 9
"""Embeddings that are timed. Their median counts."""
NEAREST: Final = 10
"""Neighbours that are compared."""


def embedding_flop(source: ClipSource, side: int = SIDE) -> float:
    """Floating-point operations of one embedding, on the meta device. Resizing is not counted."""
    with torch.device("meta"):
        network = source.network(source.config).eval()
    levels = torch.empty(1, 3, side, side, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        clip_source.features(network, source.preprocessing.apply(levels))
    return float(counter.get_total_flops())


def drawing_flop(side: int = SIDE) -> float:
    """Floating-point operations of one image through SD-Turbo's layout in one step, on the meta device."""
    with torch.device("meta"):
        unet, vae, text = make_checkpoint.unet(1), make_checkpoint.vae(1), make_checkpoint.text_encoder(1)
        latents = torch.empty(1, 4, side // 8, side // 8)
        tokens, hidden = torch.empty(1, 77, dtype=torch.long), torch.empty(1, 77, 1024)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            text.eval()(tokens)
            unet.eval()(latents, torch.empty(1), hidden)
            vae.eval().decode(latents)
    return float(counter.get_total_flops())


def embedding_s(source: ClipSource, side: int = SIDE, device: str = "cpu") -> float:
    """Median seconds of one embedding, from levels on the device to bytes."""
    embedder = embedding.load(source, Device(device))
    levels = torch.randint(0, 256, (1, 3, side, side), device=device).float()
    times = []
    with torch.inference_mode():
        embedding.as_bytes(embedder.embed(levels))
        for _ in range(EMBEDDINGS):
            begun = time.perf_counter()
            embedding.as_bytes(embedder.embed(levels))
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def drawing_s(folder: Path, device: str = "cpu") -> float:
    """Seconds of one image of 512 x 512 through SD-Turbo's layout in `folder`, after a warm-up."""
    engine = DiffusersEngine(WorkerSettings(model=str(folder), device=device, max_batch=1), "sd-turbo")
    engine.load()
    key = BatchKey("sd-turbo", SIDE, SIDE, guided=False)
    begun = time.perf_counter()
    engine.advance(Batch(key, (1,), {1: ImageTask("a lighthouse", "", 1)}))
    return time.perf_counter() - begun


def share(folder: Path, *, timed: bool, device: str = "cpu") -> dict[str, float]:
    """An embedding by ViT-B/32 over an image by SD-Turbo's layout at 512 x 512: by operations and, if `timed`, by seconds.

    Writes both models into `folder`, 3 GB in all if `timed`. On one core of a CPU that takes two minutes.
    """
    source = clip_source.read(str(make_clip.make(folder, "clip")))
    flop = embedding_flop(source)
    figures = {"embed_gflop": flop / 1e9, "embed_flop_over_draw": flop / drawing_flop()}
    if timed:
        figures["embed_ms"] = embedding_s(source, device=device) * 1000
        figures["draw_ms"] = drawing_s(make_checkpoint.make(folder), device) * 1000
        figures["embed_over_draw"] = figures["embed_ms"] / figures["draw_ms"]
    return figures


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most memory that tensors of `run` hold at one time on a CPU, in bytes, by torch's own profiler."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda each: each.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def neighbours_moved(network: Any, pixels: torch.Tensor, dtypes: Sequence[torch.dtype]) -> dict[str, float]:
    """The share of the ten nearest neighbours that change, by the way in which the vectors are made.

    `pixels` is the network's input (N, 3, h, w), float32; each image is looked up among the others. `stored` is float32
    arithmetic whose vectors are rounded to float16, as they are recorded. The others compute in that dtype, and round too.
    """
    exact = _vectors(network, pixels, torch.float32)
    nearest = _nearest(exact)
    figures = {"stored": _changed(nearest, _nearest(exact.half().float()))}
    for dtype in dtypes:
        vectors = _vectors(network, pixels, dtype).half().float()
        figures[str(dtype).removeprefix("torch.")] = _changed(nearest, _nearest(vectors))
    network.float()
    return figures


def _vectors(network: Any, pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    network.to(dtype)
    with torch.inference_mode():
        parts = [clip_source.features(network, part.to(dtype)).float() for part in pixels.split(64)]
    network.float()
    return F.normalize(torch.cat(parts))


def _nearest(vectors: torch.Tensor) -> torch.Tensor:
    cosines = vectors @ vectors.T
    cosines.fill_diagonal_(-2.0)
    return cosines.topk(NEAREST).indices


def _changed(before: torch.Tensor, after: torch.Tensor) -> float:
    kept = (before[:, :, None] == after[:, None, :]).any(2).float().mean()
    return 1.0 - float(kept)
