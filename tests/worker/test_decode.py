"""Decoded images become pictures, or faults of their own image."""

from __future__ import annotations

import pytest
import torch

from contracts.engine import ImageFault, Pixels
from worker.engine.decode import to_pixels

# Of diffusers about itself; nothing of ours can avoid them.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.mark.parametrize(
    ("value", "says"),
    [(float("nan"), "no numbers"), (float("inf"), "no numbers"), (-1.0, "black"), (-0.99, "black")],
)
def test_what_is_no_picture_is_a_fault_of_its_image_alone(value: float, says: str) -> None:
    spotted = torch.zeros(3, 64, 64)
    spotted[1, 5, 5] = value
    whole = torch.full((3, 64, 64), value)
    images = torch.stack([torch.rand(3, 64, 64), whole if says == "black" else spotted])
    good, bad = to_pixels(images, [("note",), ()], finite=torch.tensor([True, True]))
    assert isinstance(good, Pixels)
    assert good.warnings == ("note",)
    assert isinstance(bad, ImageFault)
    assert bad.code == "invalid_output"
    assert says in bad.message
