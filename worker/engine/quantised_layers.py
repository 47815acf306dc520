"""Layers in eight bits, in three ways:

- `int8`: weights stored as integers with a scale for each output channel, computed in the model's own precision;
- `int8-dynamic`: besides, linear layers multiply integers by integers: each row of their input has a scale of its own, found as it comes;
- `fp8`: linear layers multiply 8-bit floating point numbers (e4m3, Micikevicius et al. 2022, "FP8 Formats for Deep Learning"), weights
  and inputs each with one scale; the inputs' was found beforehand, by calibration, so that a picture does not depend on its company.

Convolutions hold most of a Stable Diffusion UNet's weights, which the libraries for quantised language models leave as they are;
so both kinds of layer are here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import ScalingType

LEVELS: Final = 127
FP8_LARGEST: Final = 448.0
"""The largest number of e4m3."""
HEADROOM: Final = 2.0
"""Inputs may be this much larger than calibration has seen; a floating point format pays one power of two for it, at its small end."""
SMALLEST: Final = 4096
"""Layers with fewer weights than this stay as they are: there is nothing to gain."""
FP8_SIDE: Final = 16
"""cuBLAS multiplies in it where every side is a multiple of this."""
ROWS: Final = 32
"""cuBLAS multiplies integers from 17 rows on; fewer are filled up with zeros."""
WAYS: Final = ("int8", "int8-dynamic", "fp8")

Layer = nn.Linear | nn.Conv2d


class Int8Weight(nn.Module):
    """A `Linear` or `Conv2d` whose weight is `levels * scale`: symmetric, rounded to nearest, a scale per output channel."""

    levels: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layer: Layer) -> None:
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


class Int8DynamicLinear(Int8Linear):
    """Integers by integers: each row of the input is rounded to its own 255 levels (Dettmers et al. 2022, "LLM.int8()", section 2)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features).float()
        count = rows.shape[0]
        if count < ROWS:
            rows = F.pad(rows, (0, 0, 0, ROWS - count))
        scale = (rows.abs().amax(1, keepdim=True) / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        levels = (rows / scale).round_().to(torch.int8)
        product = torch._int_mm(levels, self.levels.t()).float()
        made = (product * (scale * self.scale.float().view(1, -1)))[:count].to(x.dtype)
        if self.bias is not None:
            made = made + self.bias
        return made.view(*x.shape[:-1], self.out_features)


class Fp8Linear(nn.Module):
    """8-bit floating point by the same. `largest` is the largest input that calibration has seen."""

    bits: torch.Tensor
    scale_bits: torch.Tensor

    def __init__(self, layer: nn.Linear, largest: float) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach().float()
        tiny = torch.finfo(torch.float32).tiny
        scale = (weight.abs().amax() / FP8_LARGEST).clamp_min(tiny)
        scales = torch.stack([scale, torch.full_like(scale, max(largest * HEADROOM / FP8_LARGEST, tiny))])
        # As plain bits: `to(dtype)` converts every number that is not whole, and these must stay as they are.
        self.register_buffer("bits", (weight / scale).to(torch.float8_e4m3fn).view(torch.uint8))
        self.register_buffer("scale_bits", scales.view(torch.int32))
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, input_scale = self.scale_bits.view(torch.float32)
        weight = self.bits.view(torch.float8_e4m3fn)
        rows = x.reshape(-1, self.in_features).float()
        # A value beyond the format would become NaN.
        rows = (rows / input_scale).clamp_(-FP8_LARGEST, FP8_LARGEST).to(torch.float8_e4m3fn)
        count = rows.shape[0]
        if missing := -count % FP8_SIDE:
            rows = F.pad(rows, (0, 0, 0, missing))
        each = ScalingType.TensorWise
        made = F.scaled_mm(rows, weight.t(), input_scale, each, scale, each, output_dtype=x.dtype)[:count]
        if self.bias is not None:
            made = made + self.bias
        return made.view(*x.shape[:-1], self.out_features)


def layers(model: nn.Module) -> dict[str, Layer]:
    """The layers of `model` that are worth eight bits, by name. One of another class than PyTorch's may compute something else."""
    found: dict[str, Layer] = {}
    for name, layer in model.named_modules():
        plain = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.padding_mode == "zeros")
        if plain and layer.weight.numel() >= SMALLEST:
            found[name] = layer
    return found


def quantise_layer(layer: Layer, way: str, largest: float | None = None) -> nn.Module | None:
    """`layer` in eight bits; None where `way` has nothing for it. `largest`: of its inputs, which `fp8` must know."""
    if isinstance(layer, nn.Conv2d):
        return None if way == "fp8" else Int8Conv2d(layer)
    sides = (layer.in_features, layer.out_features)
    if way == "fp8":
        fits = largest is not None and not any(side % FP8_SIDE for side in sides)
        return Fp8Linear(layer, largest) if fits and largest is not None else None
    dynamic = way == "int8-dynamic" and not any(side % 8 for side in sides)
    return Int8DynamicLinear(layer) if dynamic else Int8Linear(layer)


def quantise(
    model: nn.Module,
    way: str = "int8",
    largest: Mapping[str, float] | None = None,
    keep: Collection[str] = (),
) -> dict[str, Layer]:
    """Replace the layers of `model` that are worth it, but for those named in `keep`; answers what stood there."""
    replaced: dict[str, Layer] = {}
    for name, layer in layers(model).items():
        made = None if name in keep else quantise_layer(layer, way, (largest or {}).get(name))
        if made is not None:
            model.set_submodule(name, made)
            replaced[name] = layer
    return replaced


def restore(model: nn.Module, replaced: Mapping[str, Layer]) -> None:
    """Put back what `quantise` has replaced."""
    for name, layer in replaced.items():
        model.set_submodule(name, layer)


def size_bytes(model: Any) -> int:
    """Bytes of all parameters and buffers."""
    return sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))
