"""Group normalisation that leaves channels-last memory as it is.

CUDA's kernel of PyTorch reads channels-first only: in a network that is laid out channels-last it copies its input there, the
convolution behind it copies back, and a small batch keeps few of the device's processors busy. Of SD-Turbo's passes on an H200 that
was half the time (docs/engine.md). Here the sums over pixels are reductions of the memory as it lies, and one more
reading scales and shifts (Wu and He 2018, "Group Normalization").
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import nn

LARGE: Final = 1 << 20
"""Values of one image from which on this is quicker than PyTorch's; below, its fewer launches count for more. Of one image, not of
the batch: in any batch a picture goes the same way."""


def channels_last_group_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float
) -> torch.Tensor:
    """`F.group_norm` of (B, C, h, w) in channels-last memory, in the same memory; sums and squares in single precision."""
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
    scale, shift = (each.to(x.dtype).view(batch, 1, channels) for each in (scale, shift))
    made = torch.addcmul(shift, pixels, scale)
    return made.view(batch, height, width, channels).permute(0, 3, 1, 2)


class ChannelsLastGroupNorm(nn.Module):
    """Takes the place of an affine `nn.GroupNorm`, with its weights."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self._groups, self._eps = norm.num_groups, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, ...) to the same."""
        last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        if not last or x[0].numel() < LARGE:
            return F.group_norm(x, self._groups, self.weight, self.bias, self._eps)
        return channels_last_group_norm(x, self.weight, self.bias, self._groups, self._eps)


def replace_group_norms(model: nn.Module) -> int:
    """Replace every affine group normalisation in `model`; answers how many."""
    count = 0
    for name, module in list(model.named_children()):
        if type(module) is nn.GroupNorm and module.affine:
            setattr(model, name, ChannelsLastGroupNorm(module))
            count += 1
        else:
            count += replace_group_norms(module)
    return count
