"""The shipped folder: size, sampler, seeds, sizes and colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.recipe import data

# diffusers' own sampler hands torch tensors to NumPy 2 the old way; nothing of ours can avoid it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MODELS = Path(__file__).parents[2] / "models"
CASES = [
    ("a red apple", "blue"), ("a cat", "yellow"), ("a rocket", "black"), ("a guitar", "green"),
    ("a robot", "pink"), ("a house", "grey"), ("a butterfly", "purple"), ("a skull", "red"),
    ("a snowman", "blue"), ("a sunflower", "white"), ("a pizza", "white"), ("a whale", "orange"),
]  # fmt: skip


def paint(pipe: Any, texts: list[str], seeds: list[int], side: int = 64, steps: int = 1) -> Any:
    return pipe(
        texts,
        num_inference_steps=steps,
        guidance_scale=0.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        height=side,
        width=side,
        output_type="np",
    ).images


@pytest.mark.parametrize("name", ["emoji-turbo", "emoji-base"])
def test_folder_is_small_and_holds_no_code(name: str) -> None:
    files = [p for p in (MODELS / name).rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 40 * 2**20
    assert not [p for p in files if p.suffix in {".py", ".bin", ".pt"}]
    assert len([p for p in files if p.suffix == ".safetensors"]) == 3


def test_sampler_takes_one_step_from_the_top(pipe: Any) -> None:
    pipe.scheduler.set_timesteps(1)
    assert pipe.scheduler.timesteps.tolist() == [999]
    assert pipe.tokenizer.model_max_length == 20


def test_same_seed_same_picture_and_another_seed_another(pipe: Any) -> None:
    first, again, *others = paint(pipe, ["a crown on a red background"] * 6, [1, 1, 2, 3, 4, 5])
    assert np.abs(first - again).max() < 1e-5
    assert max(float(np.abs(first - other).mean()) for other in others) > 0.02


def test_a_batch_paints_what_each_row_paints_alone(pipe: Any) -> None:
    texts = [f"{thing} on a {colour} background" for thing, colour in CASES[:4]]
    together = paint(pipe, texts, [5, 6, 7, 8])
    for i, text in enumerate(texts):
        assert np.abs(paint(pipe, [text], [5 + i])[0] - together[i]).max() < 1e-3


def test_background_is_the_colour_asked_for_and_things_differ(pipe: Any) -> None:
    texts = [f"{thing} on a {colour} background" for thing, colour in CASES]
    pictures = paint(pipe, texts, list(range(len(texts))))
    table = np.asarray(list(data.COLOURS.values())) / 255
    names = list(data.COLOURS)
    for picture, (_, colour) in zip(pictures, CASES, strict=True):
        corners = np.concatenate([picture[:3, :3], picture[:3, -3:]]).reshape(-1, 3)
        assert names[((np.median(corners, 0) - table) ** 2).sum(1).argmin()] == colour
    flat = paint(pipe, [f"{t} on a white background, flat style" for t, _ in CASES], [9] * 12)
    flat = flat.reshape(len(CASES), -1)
    apart = np.sqrt(((flat[:, None] - flat) ** 2).mean(2)) + np.eye(len(CASES))
    assert apart.min() > 0.08


def test_another_size_works(pipe: Any) -> None:
    (picture,) = paint(pipe, ["a cat on a blue background"], [0], side=96)
    assert picture.shape == (96, 96, 3)
    assert picture[..., 2].mean() > picture[..., 0].mean() - 0.2
