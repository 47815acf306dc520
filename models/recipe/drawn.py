"""Pictures by the student itself: what an image search really holds.

They differ from renders: they are softer, and every seed draws another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from models.recipe import captions, common, data

BATCH = 60
EACH = 4
"""Pictures of each thing on each colour: half of them in each style."""
_SIDE = data.SIDE_PX // common.FACTOR


@dataclass(frozen=True, slots=True)
class Drawn:
    """Pictures, uint8 (N, side, side, 3), and their concept, colour, style and layout, int (N, 4)."""

    pictures: Any
    attributes: Any


def requests(emoji: data.EmojiSet) -> list[captions.Request]:
    """`EACH` requests for each trained combination of thing and colour. The layout is left to the noise."""
    made = []
    for i, concept in enumerate(emoji.concepts):
        for c, colour in enumerate(data.COLOURS):
            if data.held_out(concept.name, colour):
                continue
            for k in range(EACH):
                style = k % len(data.STYLES)
                text = captions.write(concept.name, colour, data.STYLES[style])
                made.append(captions.Request(i, c, style, None, text))
    return made


def open_student(folder: Path) -> StableDiffusionPipeline:
    """The pipeline of a model folder, in single precision."""
    return StableDiffusionPipeline.from_pretrained(folder, local_files_only=True).to(torch.float32)


def draw(pipe: StableDiffusionPipeline, asked: list[captions.Request], seed: int) -> Drawn:
    """Draws every request in one step. The same seed draws the same pictures."""
    pipe.set_progress_bar_config(disable=True)
    pictures, attributes = [], []
    for start in common.progress(list(range(0, len(asked), BATCH)), "drawn"):
        part = asked[start : start + BATCH]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        noise = torch.randn(len(part), common.CHANNELS, _SIDE, _SIDE, generator=generator)
        with common.fast():
            images = pipe(
                [request.caption for request in part],
                num_inference_steps=1,
                guidance_scale=0.0,
                latents=noise,
                height=data.SIDE_PX,
                width=data.SIDE_PX,
                output_type="pt",
            ).images
        levels = images.float().mul(255).round().clamp(0, 255).to(torch.uint8)
        pictures.append(levels.permute(0, 2, 3, 1).numpy())
        concept, style, layout, colour = captions.settle(part, noise)
        attributes.append(np.stack([concept, colour, style, layout], 1))
    return Drawn(np.concatenate(pictures), np.concatenate(attributes).astype(np.int64))


def load(path: Path) -> Drawn | None:
    """Reads saved pictures, or nothing where there are none."""
    if not path.exists():
        return None
    with np.load(path) as saved:
        return Drawn(saved["pictures"], saved["attributes"])


def save(path: Path, made: Drawn) -> None:
    """Writes pictures so that an interruption leaves no half file."""
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, pictures=made.pictures, attributes=made.attributes)
    partial.replace(path)
