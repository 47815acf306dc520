"""Weights in eight bits: stored as integers with a scale for each output channel, computed in the model's own precision.

Convolutions hold most of a Stable Diffusion UNet's weights, which the libraries for quantised language models leave as they are;
so both kinds of layer are here.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import nn

LEVELS: Final = 127
SMALLEST: Final = 4096
"""Layers with fewer weights than this stay as they are: there is nothing to gain."""


class Int8Weight(nn.Module):
    """A `Linear` or `Conv2d` whose weight is `levels * scale`: symmetric, rounded to nearest, a scale per output channel."""

    levels: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        shape = (-1, *[1] * (weight.ndim - 1))
        scale = (weight.abs().flatten(1).amax(1) / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        self.register_buffer("levels", (weight / scale.view(shape)).round_().to(torch.int8))
        self.register_buffer("scale", scale.view(shape).to(layer.weight.dtype))
        self.bias = layer.bias

    @property
    def weight(self) -> torch.Tensor:
        return self.levels.to(self.scale.dtype) * self.scale


class Int8Linear(Int8Weight):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


class Int8Conv2d(Int8Weight):
    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        self._how: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight, self.bias, *self._how)


def quantise(model: nn.Module) -> int:
    """Replace every large linear and convolution layer of `model`; answers how many."""
    count = 0
    for name, layer in list(model.named_children()):
        made: nn.Module | None = None
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.numel() >= SMALLEST:
            # A layer of another class than PyTorch's may compute something else.
            if type(layer) is nn.Linear:
                made = Int8Linear(layer)
            elif type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
                made = Int8Conv2d(layer)
        if made is not None:
            setattr(model, name, made)
            count += 1
        else:
            count += quantise(layer)
    return count


def size_bytes(model: Any) -> int:
    """Bytes of all parameters and buffers."""
    return sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))
