"""What every peer serves: the embedded model in one step through diffusers, and its pictures as PNG.

Runs in the peers' environments.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from benchmarks.peer_apps.options import CORE, MAX_BATCH, SIDE


class Model:
    """The loaded pipeline, warm, on the core of `PEER_CORE`. Made in the process that draws, and used by one thread of it."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        folder = Path(__file__).parents[2] / "models" / "emoji-turbo"
        self._pipeline: Any = StableDiffusionPipeline.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
        self._pipeline.set_progress_bar_config(disable=True)
        for size in (MAX_BATCH, 1):
            self.draw(["warm up"] * size, [0] * size)
        pin()

    def draw(self, prompts: list[str], seeds: list[int]) -> list[bytes]:
        """One batch as PNG files, in order."""
        return [png(rgb) for rgb in self.pixels(prompts, seeds)]

    def pixels(self, prompts: list[str], seeds: list[int]) -> list[bytes]:
        """One batch as RGB of 64 x 64, row by row."""
        with torch.inference_mode():
            images: torch.Tensor = self._pipeline(
                prompt=prompts,
                width=SIDE,
                height=SIDE,
                num_inference_steps=1,
                guidance_scale=0.0,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                output_type="pt",
            ).images
            rgb = images.float().mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        return [each.tobytes() for each in rgb.numpy()]


def png(rgb: bytes) -> bytes:
    """RGB of 64 x 64 as a PNG file, by the encoder and at the level that the platform's worker has."""
    pixels = cv2.cvtColor(np.frombuffer(rgb, np.uint8).reshape(SIDE, SIDE, 3), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError("OpenCV cannot write PNG.")
    return data.tobytes()


def pin() -> None:
    """All threads of this process to the core of `PEER_CORE`, and with them those to come."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {int(os.environ[CORE])})
