"""The judge of the fidelity benchmark, and the stock pipelines that it judges.

The judge is independent of the models: it compares a picture with real renders of every concept
(all styles and layouts, on the background asked for) by the cosine of coarse pixels and edges,
over a small search of shifts. It knows nothing of latents, captions or the tiny CLIP.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.recipe import data

SIDE = 32
SHIFTS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]


def coarse(pictures: Any) -> Any:
    """Pictures (N, side, side, 3) in [0, 1], averaged down to SIDE x SIDE."""
    count, side = pictures.shape[:2]
    step = side // SIDE
    return pictures.reshape(count, SIDE, step, SIDE, step, 3).mean((2, 4))


def features(pictures: Any, colour: int) -> Any:
    """Unit vectors (N, F) of coarse pictures: what differs from the background, and its edges."""
    flat = np.asarray(list(data.COLOURS.values()), np.float32)[colour] / 255
    body = pictures - flat
    edges = np.concatenate(
        [
            np.diff(pictures, axis=1).reshape(len(pictures), -1),
            np.diff(pictures, axis=2).reshape(len(pictures), -1),
        ],
        1,
    )
    parts = [body.reshape(len(pictures), -1), edges]
    unit = [p / (np.linalg.norm(p, axis=1, keepdims=True) + 1e-6) for p in parts]
    return np.concatenate(unit, 1).astype(np.float32) / 2**0.5


class Judge:
    """Nearest neighbour over real renders; concepts are ranked by their best reference."""

    def __init__(self, emoji: data.EmojiSet) -> None:
        drawn = data.canvases(emoji)
        self.concepts = len(emoji.concepts)
        self.references = {
            c: features(coarse(data.over(drawn, c).reshape(-1, 64, 64, 3)), c)
            for c in range(len(data.COLOURS))
        }

    def rank(self, pictures: Any, colours: Any) -> Any:
        """Concepts by likeness, best first: (N, concepts)."""
        return np.argsort(-self.scores(pictures, colours), 1)

    def scores(self, pictures: Any, colours: Any) -> Any:
        """Likeness to each concept's best reference, at most 1: (N, concepts)."""
        scores = np.full((len(pictures), self.concepts), -1.0, np.float32)
        for colour in np.unique(colours):
            rows = np.flatnonzero(colours == colour)
            for y, x in SHIFTS:
                moved = np.roll(coarse(pictures[rows]), (y, x), (1, 2))
                likeness = features(moved, int(colour)) @ self.references[int(colour)].T
                best = likeness.reshape(len(rows), self.concepts, -1).max(2)
                scores[rows] = np.maximum(scores[rows], best)
        return scores


def background(pictures: Any) -> Any:
    """The palette colour nearest to the median of the four corners' patches: (N,)."""
    corners = [
        pictures[:, a, b] for a in (slice(0, 4), slice(-4, None)) for b in (slice(0, 4), slice(-4, None))
    ]
    seen = np.median(np.concatenate([c.reshape(len(pictures), -1, 3) for c in corners], 1), 1)
    table = np.asarray(list(data.COLOURS.values()), np.float32) / 255
    return ((seen[:, None] - table) ** 2).sum(2).argmin(1)


def paint(
    pipe: Any, texts: list[str], seeds: list[int], steps: int, guidance: float, batch: int
) -> tuple[Any, float]:
    """Pictures (N, 64, 64, 3) in [0, 1], and the milliseconds each took."""
    done = []
    begin = time.perf_counter()
    for start in range(0, len(texts), batch):
        part = slice(start, start + batch)
        done.append(
            pipe(
                texts[part],
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(s) for s in seeds[part]],
                height=data.SIDE_PX,
                width=data.SIDE_PX,
                output_type="np",
            ).images
        )
    return np.concatenate(done), (time.perf_counter() - begin) * 1000 / len(texts)


def open_pipeline(folder: Path) -> Any:
    """A model folder's pipeline in single precision, silent."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe
