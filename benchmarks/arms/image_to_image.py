"""What `fidelity.py` measures of image-to-image: whether the thing stays where the source has it.

Place is measured by pixels alone: the box around all that is not background.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.judge import Judge
from models.recipe import captions, data

STRENGTHS = (0.25, 0.5, 0.75)
STEPS = 4
CENTRE_PX = 5
"""How far the centre may move: half of what sets `left` apart from the middle."""
LARGER = 1.19
"""How much the longer side may change: half of what sets `small` apart from `large`."""


def box(picture: Any) -> tuple[float, float, float]:
    """Centre and longer side, in pixels, of what is not background in a picture (64, 64, 3) of [0, 1].

    A row or column counts from two pixels on, so that a speck is nothing.
    """
    corners = np.concatenate([picture[y, x].reshape(-1, 3) for y in _ENDS for x in _ENDS])
    thing = np.abs(picture - np.median(corners, 0)).max(2) > 0.16
    rows, columns = (np.flatnonzero(thing.sum(axis) >= 2) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return -1.0, -1.0, 0.0
    (top, bottom), (left, right) = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
    return (top + bottom) / 2, (left + right) / 2, float(max(bottom - top, right - left))


_ENDS = (slice(0, 3), slice(-3, None))


def same_place(picture: Any, source: Any) -> bool:
    """Whether two pictures have their things at the same place and of the same size."""
    (y, x, side), (y0, x0, side0) = box(picture), box(source)
    near = abs(y - y0) <= CENTRE_PX and abs(x - x0) <= CENTRE_PX
    return near and side > 0 and max(side / side0, side0 / side) <= LARGER


def images(judge: Judge, student: Any, emoji: data.EmojiSet, count: int) -> dict[str, float]:
    """How often image-to-image keeps the place of its source, by strength, and draws what is asked.

    Source and prompt differ in thing and background; layouts come round evenly. The control judges
    the same pictures by the sources of others.
    """
    from diffusers import StableDiffusionImg2ImgPipeline

    pipe = StableDiffusionImg2ImgPipeline(**student.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(5)
    colours = list(data.COLOURS)
    things = rng.permutation(len(emoji.concepts))[:count]
    sources, texts, grounds = [], [], []
    for i, thing in enumerate(things):
        other = emoji.sprites[(thing + 1 + len(things)) % len(emoji.concepts), i % 2]
        ground, before = rng.choice(len(colours), 2, replace=False)
        layout = data.LAYOUTS[i % len(data.LAYOUTS)]
        sources.append(data.over(data.place(other, layout), np.array(int(before))))
        texts.append(captions.write(emoji.concepts[thing].name, colours[ground]))
        grounds.append(int(ground))
    figures = {}
    for strength in STRENGTHS:
        pictures = np.concatenate(
            [
                pipe(
                    texts[part],
                    image=[Image.fromarray((s * 255).round().astype(np.uint8)) for s in sources[part]],
                    strength=strength,
                    num_inference_steps=STEPS,
                    guidance_scale=0.0,
                    generator=[torch.Generator().manual_seed(i) for i in range(count)[part]],
                    output_type="np",
                ).images
                for part in (slice(start, start + 32) for start in range(0, count, 32))
            ]
        )
        name = f"{round(100 * strength)}"
        figures[f"place_kept_{name}"] = float(np.mean(list(map(same_place, pictures, sources))))
        if strength == max(STRENGTHS):
            moved = sources[1:] + sources[:1]
            figures["place_control"] = float(np.mean(list(map(same_place, pictures, moved))))
            top = judge.rank(pictures, np.array(grounds))[:, 0]
            figures[f"image_top1_{name}"] = float((top == things).mean())
    return figures
