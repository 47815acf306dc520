"""Group normalisation of channels-last memory (Wu and He 2018, "Group Normalization").

PyTorch's CUDA kernel reads channels-first memory only. In a channels-last network it copies its input
to that layout, and the next convolution copies it back. A small batch also keeps few of the device's
processors busy. On an H200, this took half the time of SD-Turbo's batches (docs/engine.md). Here the
sums over pixels read the memory as it lies. One more read scales and shifts the values.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import nn

LARGE: Final = 1 << 20
"""The number of values of one image from which on this is faster than PyTorch's kernel.

Below it, PyTorch's fewer launches matter more. The number is that of one image and not of the batch,
so an image takes the same way in any batch.
"""


def channels_last_group_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float
) -> torch.Tensor:
    """Return `F.group_norm` of `x`, (B, C, h, w), in channels-last memory as `x` and of its dtype.

    `weight` and `bias` are (C,), of any floating point dtype. Sums and squares are in float32.
    """
    batch, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    count = height * width * (channels // groups)
    sums = pixels.sum(1, dtype=torch.float32).view(batch, groups, -1).sum(-1, keepdim=True)
    lengths = torch.linalg.vector_norm(pixels, 2, 1, dtype=torch.float32)
    squares = lengths.square().view(batch, groups, -1).sum(-1, keepdim=True)
    mean = sums / count
    variance = (squares / count - mean * mean).clamp_min(0)
    scale = weight.view(groups, -1) * torch.rsqrt(variance + eps)
    shift = bias.view(groups, -1) - mean * scale
    scale, shift = (tensor.to(x.dtype).view(batch, 1, channels) for tensor in (scale, shift))
    normalised = torch.addcmul(shift, pixels, scale)
    return normalised.view(batch, height, width, channels).permute(0, 3, 1, 2)


class ChannelsLastGroupNorm(nn.Module):
    """Takes the place of an affine `nn.GroupNorm`, with its weights."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self._groups, self._eps = norm.num_groups, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised `x`, (B, C, ...), of the same shape and dtype."""
        channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        if not channels_last or x[0].numel() < LARGE:
            return F.group_norm(x, self._groups, self.weight, self.bias, self._eps)
        return channels_last_group_norm(x, self.weight, self.bias, self._groups, self._eps)


def replace_group_norms(model: nn.Module) -> int:
    """Replace every affine group normalisation in `model`. Returns how many it replaced."""
    count = 0
    for name, module in list(model.named_children()):
        if type(module) is nn.GroupNorm and module.affine:
            setattr(model, name, ChannelsLastGroupNorm(module))
            count += 1
        else:
            count += replace_group_norms(module)
    return count
