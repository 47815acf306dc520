"""Group normalisation in channels-last memory is PyTorch's, and keeps the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from contracts.engine import Batch, BatchKey, ImageTask, Pixels
from contracts.settings import WorkerSettings
from worker.engine import norms
from worker.engine.diffusers import DiffusersEngine
from worker.engine.norms import ChannelsLastGroupNorm, channels_last_group_norm, replace_group_norms
from worker.engine.quality import psnr_db

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
MODEL = Path(__file__).parents[2] / "models" / "emoji-turbo"


def images(
    batch: int, channels: int, side: int, *, mean: float = 0.0, deviation: float = 1.0
) -> torch.Tensor:
    made = torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(side))
    return (made * deviation + mean).to(memory_format=torch.channels_last)


def norm_of(channels: int, groups: int) -> nn.GroupNorm:
    made = nn.GroupNorm(groups, channels, eps=1e-6)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.weight.copy_(torch.randn(channels, generator=generator))
        made.bias.copy_(torch.randn(channels, generator=generator))
    return made


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 4),
    groups=st.sampled_from([1, 4, 32]),
    per_group=st.integers(1, 5),
    side=st.integers(2, 24),
    mean=st.floats(-20, 20),
    deviation=st.floats(0.01, 300),
)
def test_it_is_pytorchs(
    batch: int, groups: int, per_group: int, side: int, mean: float, deviation: float
) -> None:
    norm = norm_of(groups * per_group, groups)
    x = images(batch, groups * per_group, side, mean=mean, deviation=deviation)
    with torch.inference_mode():
        expected = norm.double()(x.double())
        norm.float()
        made = channels_last_group_norm(x, norm.weight, norm.bias, groups, norm.eps)
    # Single precision's sum of squares loses what the mean is larger than the deviation, squared.
    lost = 1e-4 * (1 + (mean / deviation) ** 2)
    assert (made - expected).abs().max() <= lost * (1 + expected.abs().max())
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_sums_of_half_precision_do_not_overflow() -> None:
    """The values of a decoder reach thousands: their squares do not fit float16."""
    norm = norm_of(64, 32)
    x = images(2, 64, 64, deviation=5000.0).clamp_(-60000, 60000)
    with torch.inference_mode():
        expected = norm(x)
        made = channels_last_group_norm(x.half(), norm.weight.half(), norm.bias.half(), 32, norm.eps)
    assert made.dtype is torch.float16
    assert (made.float() - expected).abs().max() < 0.02 * expected.abs().max()


def test_small_images_and_other_memory_go_pytorchs_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> torch.Tensor:
        raise AssertionError

    monkeypatch.setattr(norms, "channels_last_group_norm", never)
    norm = norm_of(8, 4)
    ours = ChannelsLastGroupNorm(norm)
    for x in (images(2, 8, 16), images(2, 8, 16).contiguous(), torch.randn(2, 8, 5)):
        assert torch.equal(ours(x), norm(x))
    monkeypatch.setattr(norms, "LARGE", 8 * 16 * 16)
    with pytest.raises(AssertionError):
        ours(images(1, 8, 16))
    assert torch.equal(ours(images(2, 8, 16).contiguous()), norm(images(2, 8, 16).contiguous()))


def test_every_affine_one_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = nn.Sequential(nn.Conv2d(8, 8, 3), norm_of(8, 4), nn.Sequential(nn.SiLU(), norm_of(8, 2)))
    model.append(nn.GroupNorm(2, 8, affine=False))
    model.to(memory_format=torch.channels_last)
    x = images(2, 8, 16)
    with torch.inference_mode():
        expected = model(x)
        assert replace_group_norms(model) == 2
        assert not [m for m in model.modules() if isinstance(m, nn.GroupNorm) and m.affine]
        assert torch.equal(model(x), expected)
        monkeypatch.setattr(norms, "LARGE", 1)
        assert torch.allclose(model(x), expected, atol=1e-5)


def test_an_engine_draws_the_same_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = DiffusersEngine(WorkerSettings(model=str(MODEL), device="cpu", max_batch=2), MODEL.name)
    engine.load()
    tasks = {seed: ImageTask("a red apple", "", seed, 1) for seed in (0, 1)}
    asked = Batch(BatchKey(MODEL.name, 64, 64, guided=False), (0, 1), tasks)
    before = engine.advance(asked)
    assert replace_group_norms(engine.pipeline.unet) > 10
    monkeypatch.setattr(norms, "LARGE", 1)
    for one, other in zip(before, engine.advance(asked), strict=True):
        assert isinstance(one, Pixels)
        assert isinstance(other, Pixels)
        assert psnr_db(one, other) > 60
