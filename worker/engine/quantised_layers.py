"""Layers in eight bits, in three ways.

- `int8`: weights are integers with a scale per output channel. The layer computes in the model's own
  precision.
- `int8-dynamic`: as `int8`, and linear layers multiply integers by integers. Each row of their input
  gets a scale when it comes.
- `fp8`: linear layers multiply 8-bit floating point numbers (e4m3, Micikevicius et al. 2022, "FP8
  Formats for Deep Learning"). The weights have one scale, and the inputs have one. Calibration finds
  the inputs' scale beforehand, so an image does not depend on its batch.

Libraries for quantised language models leave convolutions as they are. But convolutions hold most of
the weights of a Stable Diffusion UNet. This module therefore has both kinds of layer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import ScalingType

LEVELS: Final = 127
"""The largest level of a signed 8-bit integer; levels are symmetric."""
FP8_LARGEST: Final = 448.0
"""The largest number of e4m3."""
HEADROOM: Final = 2.0
"""Inputs may be this many times larger than calibration has seen.

It costs a floating point format one power of two at its small end.
"""
SMALLEST: Final = 4096
"""Layers with fewer weights than this stay as they are, because there is nothing to gain."""
FP8_SIDE: Final = 16
"""cuBLAS multiplies e4m3 matrices if every side is a multiple of this."""
ROWS: Final = 32
"""cuBLAS multiplies integers from 17 rows on. Fewer rows are filled up with zeros to this many."""
WAYS: Final = ("int8", "int8-dynamic", "fp8")

Layer = nn.Linear | nn.Conv2d


class Int8Weight(nn.Module):
    """A `Linear` or `Conv2d` whose weight is `levels * scale`: symmetric, and rounded to nearest."""

    levels: torch.Tensor
    """int8, in the shape of the layer's weight: (D, C) or (D, C, kernel height, kernel width)."""
    scale: torch.Tensor
    """One per output channel, (D, 1) or (D, 1, 1, 1), in the dtype of the layer's weight."""

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
        """The weight that the layer computes with, (D, C) or (D, C, h, w), in the dtype of `scale`."""
        return self.levels.to(self.scale.dtype) * self.scale


class Int8Linear(Int8Weight):
    """A `Linear` with an `int8` weight, computed in the model's own precision."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `x`, (..., in features), to (..., out features), both in the dtype of `scale`."""
        return F.linear(x, self.weight, self.bias)


class Int8Conv2d(Int8Weight):
    """A `Conv2d` with an `int8` weight, computed in the model's own precision."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        self._options: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `x`, (B, C, h, w), to (B, D, h', w'), both in the dtype of `scale`."""
        return F.conv2d(x, self.weight, self.bias, *self._options)


class Int8DynamicLinear(Int8Linear):
    """A `Linear` that multiplies integers by integers.

    Each row of the input is rounded to 255 levels with its own scale (Dettmers et al. 2022,
    "LLM.int8()", section 2).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `x`, (..., in features), to (..., out features), both of one floating point dtype."""
        rows = x.reshape(-1, self.in_features).float()
        count = rows.shape[0]
        if count < ROWS:
            rows = F.pad(rows, (0, 0, 0, ROWS - count))
        scale = (rows.abs().amax(1, keepdim=True) / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        levels = (rows / scale).round_().to(torch.int8)
        product = torch._int_mm(levels, self.levels.t()).float()
        output = (product * (scale * self.scale.float().view(1, -1)))[:count].to(x.dtype)
        if self.bias is not None:
            output = output + self.bias
        return output.view(*x.shape[:-1], self.out_features)


class Fp8Linear(nn.Module):
    """A `Linear` that multiplies e4m3 numbers by e4m3 numbers.

    `largest` is the largest absolute input that calibration has seen.
    """

    bits: torch.Tensor
    """The weight's e4m3 numbers as uint8, (out features, in features)."""
    scale_bits: torch.Tensor
    """The float32 scales of weight and input as int32, (2,)."""

    def __init__(self, layer: nn.Linear, largest: float) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach().float()
        tiny = torch.finfo(torch.float32).tiny
        scale = (weight.abs().amax() / FP8_LARGEST).clamp_min(tiny)
        scales = torch.stack([scale, torch.full_like(scale, max(largest * HEADROOM / FP8_LARGEST, tiny))])
        # Stored as integers, because `to(dtype)` converts floating point buffers, and these must stay.
        self.register_buffer("bits", (weight / scale).to(torch.float8_e4m3fn).view(torch.uint8))
        self.register_buffer("scale_bits", scales.view(torch.int32))
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `x`, (..., in features), to (..., out features), both of one floating point dtype."""
        scale, input_scale = self.scale_bits.view(torch.float32)
        weight = self.bits.view(torch.float8_e4m3fn)
        rows = x.reshape(-1, self.in_features).float()
        # A value beyond the range of the format would become NaN.
        rows = (rows / input_scale).clamp_(-FP8_LARGEST, FP8_LARGEST).to(torch.float8_e4m3fn)
        count = rows.shape[0]
        if missing := -count % FP8_SIDE:
            rows = F.pad(rows, (0, 0, 0, missing))
        scaling = ScalingType.TensorWise
        output = F.scaled_mm(rows, weight.t(), input_scale, scaling, scale, scaling, output_dtype=x.dtype)[
            :count
        ]
        if self.bias is not None:
            output = output + self.bias
        return output.view(*x.shape[:-1], self.out_features)


def layers(model: nn.Module) -> dict[str, Layer]:
    """Return the layers of `model` that are worth eight bits, by name.

    Subclasses of PyTorch's layers are left out, because they may compute something else.
    """
    by_name: dict[str, Layer] = {}
    for name, layer in model.named_modules():
        plain = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.padding_mode == "zeros")
        if plain and layer.weight.numel() >= SMALLEST:
            by_name[name] = layer
    return by_name


def quantise_layer(layer: Layer, way: str, largest: float | None = None) -> nn.Module | None:
    """Return `layer` in eight bits; None if `way` does not support it.

    `way` is one of `WAYS`. `largest` is the largest absolute input of the layer, which `fp8` needs.
    """
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
    """Replace the layers of `model` that are worth eight bits, and return the original layers by name.

    The layers named in `keep` stay. `largest` holds the largest absolute input of each layer.
    """
    replaced: dict[str, Layer] = {}
    for name, layer in layers(model).items():
        quantised = None if name in keep else quantise_layer(layer, way, (largest or {}).get(name))
        if quantised is not None:
            model.set_submodule(name, quantised)
            replaced[name] = layer
    return replaced


def restore(model: nn.Module, replaced: Mapping[str, Layer]) -> None:
    """Put the layers that `quantise` has replaced back into `model`."""
    for name, layer in replaced.items():
        model.set_submodule(name, layer)


def size_bytes(model: Any) -> int:
    """Return the size of all parameters and buffers, in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
