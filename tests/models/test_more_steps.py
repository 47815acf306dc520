"""The shipped student beyond one step: more steps, and image-to-image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.arms.image_to_image import box, same_place
from tests.models.test_folder import CASES, paint

# diffusers' own sampler hands torch tensors to NumPy 2 the old way; nothing of ours can avoid it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def apart(ours: Any, theirs: Any) -> Any:
    """Root mean square differences of every picture of ours to every one of theirs."""
    ours, theirs = ours.reshape(len(ours), 1, -1), theirs.reshape(1, len(theirs), -1)
    return np.sqrt(((ours - theirs) ** 2).mean(2))


@pytest.fixture(scope="module")
def in_one(pipe: Any) -> Any:
    return paint(pipe, [f"{thing} on a {colour} background, flat style" for thing, colour in CASES], [9] * 12)


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_more_steps_draw_the_same_thing(pipe: Any, in_one: Any, steps: int) -> None:
    texts = [f"{thing} on a {colour} background, flat style" for thing, colour in CASES]
    more = paint(pipe, texts, [9] * 12, steps=steps)
    differences = apart(more, in_one)
    assert (differences.argmin(1) == np.arange(12)).all()
    assert differences.diagonal().max() < 0.12


@pytest.fixture(scope="module")
def from_image(pipe: Any) -> Any:
    from diffusers import StableDiffusionImg2ImgPipeline

    made = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def disc(x: int, y: int, radius: int) -> Any:
    rows, columns = np.mgrid[:64, :64]
    inside = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
    return np.where(inside[..., None], [222, 66, 70], [70, 132, 236]).astype(np.float32) / 255


@pytest.mark.parametrize("strength", [0.25, 0.5])
def test_image_to_image_keeps_the_place_of_its_source(from_image: Any, strength: float) -> None:
    sources = [disc(22, 32, 22), disc(42, 32, 22), disc(32, 32, 19), disc(32, 32, 27)]
    pictures = from_image(
        ["a tomato on a blue background"] * 4,
        image=[Image.fromarray((source * 255).round().astype(np.uint8)) for source in sources],
        strength=strength,
        num_inference_steps=4,
        guidance_scale=0.0,
        generator=[torch.Generator().manual_seed(seed) for seed in range(4)],
        output_type="np",
    ).images
    assert all(map(same_place, pictures, sources)), [
        (box(p), box(s)) for p, s in zip(pictures, sources, strict=True)
    ]
