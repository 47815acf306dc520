"""The shipped student draws the thing of a free prompt, on white."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.models.test_folder import paint

# diffusers' own sampler hands torch tensors to NumPy 2 the old way; nothing of ours can avoid it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FREE = {
    "a smiling cat": "a cat", "a sad robot": "a robot", "two red cherries": "cherries", "AN OLD GUITAR": "a guitar",
    "give me a skull, thanks": "a skull", "please draw a happy whale": "a whale", "grumpy penguins": "a penguin",
    "a roket": "a rocket", "three wooden chairs": "a chair", "A pizza. It was a gift from Tom.": "a pizza",
    "Good morning. A snowman.": "a snowman", "a velvety velvet butterfly": "a butterfly",
}  # fmt: skip


def apart(ours: Any, theirs: Any) -> Any:
    """Root mean square differences of every picture of ours to every one of theirs."""
    ours, theirs = ours.reshape(len(ours), 1, -1), theirs.reshape(1, len(theirs), -1)
    return np.sqrt(((ours - theirs) ** 2).mean(2))


def test_a_free_prompt_draws_its_thing(pipe: Any) -> None:
    plain = paint(pipe, [f"{thing} on a white background" for thing in FREE.values()], list(range(12)))
    differences = apart(paint(pipe, list(FREE), list(range(12))), plain)
    assert (differences.argmin(1) == np.arange(12)).sum() >= 10


def test_a_white_background_is_what_a_free_prompt_gets(pipe: Any) -> None:
    pictures = paint(pipe, list(FREE), list(range(12)))
    corners = pictures[:, :3, :3].reshape(12, -1, 3).mean(1)
    assert (corners.min(1) > 0.85).sum() >= 10
