"""Folded upsampling: the same image from fewer multiplications."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import nn

from worker.engine.upsample import DoubledConv, DoublingUpsample, fold

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

MODEL = Path(__file__).parents[2] / "models" / "emoji-turbo"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 5, 4), (3, 3, 8, 8)])
def test_it_is_the_convolution_of_the_doubled_image(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(1)
    conv = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
    x = torch.randn(shape)
    with torch.inference_mode():
        whole = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        torch.testing.assert_close(DoubledConv(conv)(x), whole, rtol=1e-5, atol=1e-5)


def decoded(vae: Any) -> torch.Tensor:
    with torch.inference_mode():
        answer: torch.Tensor = vae.decode(
            torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        ).sample
    return answer


def test_a_whole_decoder_and_a_whole_unet_are_the_same() -> None:
    torch.manual_seed(1)
    kl = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
    ).eval()
    tiny = AutoencoderTiny.from_pretrained(MODEL / "vae", dtype=torch.float32)
    for vae in (kl, tiny):
        before = decoded(vae)
        assert fold(vae) == 2
        assert fold(vae) == 0
        torch.testing.assert_close(decoded(vae), before, rtol=1e-4, atol=1e-4)
    unet = UNet2DConditionModel.from_pretrained(MODEL / "unet", dtype=torch.float32)
    inputs = (torch.randn(2, 4, 16, 24), torch.tensor([999.0, 1.0]), torch.randn(2, 20, 128))
    with torch.inference_mode():
        before = unet(*inputs).sample
        assert fold(unet) == 2
        torch.testing.assert_close(unet(*inputs).sample, before, rtol=1e-4, atol=1e-4)


def test_what_is_no_plain_doubling_is_left_alone() -> None:
    model = nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(3, 3, 3, padding=1),
        nn.Upsample(scale_factor=4),
        nn.Conv2d(3, 3, 3, padding=1),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(3, 3, 3),
        nn.Upsample(scale_factor=2),
    )
    assert fold(model) == 0


def test_another_size_than_twice_is_refused() -> None:
    module = DoublingUpsample(nn.Conv2d(3, 3, 3, padding=1))
    assert module(torch.zeros(1, 3, 4, 4), (8, 8)).shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match="no multiple"):
        module(torch.zeros(1, 3, 4, 4), (7, 8))
