"""Upsampling by 2 with the convolution behind it, in four ninths of the multiplications.

A 3 x 3 kernel reads nine values from an image that was doubled by nearest neighbours. Some of these
values are the same pixel. Each of the four phases of the output (even and odd rows and columns) is
therefore a 2 x 2 convolution of the small image. Its weights are sums of the weights that read the
same pixel, computed beforehand. The result is the same up to rounding, and the doubled image is
never stored.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch import nn

_PHASES: Final = (((0,), (1, 2)), ((0, 1), (2,)))
"""For even and for odd outputs: which rows of the kernel read the first pixel, and which the second."""


class DoubledConv(nn.Module):
    """Computes `conv(F.interpolate(x, scale_factor=2, mode="nearest"))`.

    `conv` is a 3 x 3 convolution from C to D channels with padding 1. The weight is (4 D, C, 2, 2),
    in the dtype of `conv`.
    """

    weight: torch.Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        kernel = conv.weight.detach()
        phases = [
            torch.stack(
                [
                    torch.stack([_summed(kernel, up, left) for left in _PHASES[column]], -1)
                    for up in _PHASES[row]
                ],
                -2,
            )
            for row in (0, 1)
            for column in (0, 1)
        ]
        self.weight = nn.Parameter(
            torch.cat(phases).to(memory_format=torch.channels_last), requires_grad=False
        )
        self.bias = (
            None if conv.bias is None else nn.Parameter(conv.bias.detach().repeat(4), requires_grad=False)
        )

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Map `x`, (B, C, h, w), to (B, D, 2h, 2w), both in the dtype of the weight."""
        batch, _channels, height, width = x.shape
        phases = F.conv2d(x, self.weight, self.bias, padding=1).chunk(4, 1)
        output = torch.empty(
            batch,
            phases[0].shape[1],
            2 * height,
            2 * width,
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        for number, phase in enumerate(phases):
            row, column = divmod(number, 2)
            output[:, :, row::2, column::2] = phase[:, :, row : row + height, column : column + width]
        return output


class DoublingUpsample(nn.Module):
    """Takes the place of a diffusers `Upsample2D` that doubles the image."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = DoubledConv(conv)

    def forward(
        self, hidden_states: torch.Tensor, output_size: Any = None, *_: Any, **__: Any
    ) -> torch.Tensor:
        """Map `hidden_states`, (B, C, h, w), to (B, D, 2h, 2w), both in the dtype of the weight.

        Raises `ValueError` if `output_size` is another size. That happens if the image's size is no
        multiple of the model's.
        """
        height, width = hidden_states.shape[-2:]
        if output_size is not None and tuple(output_size) != (2 * height, 2 * width):
            raise ValueError(f"The image's size is no multiple of the model's: {tuple(output_size)}.")
        upsampled: torch.Tensor = self.conv(hidden_states)
        return upsampled


def fold(model: nn.Module) -> int:
    """Replace every upsampling by 2 that a 3 x 3 convolution follows. Returns how many it replaced."""
    count = 0
    for name, module in list(model.named_children()):
        if isinstance(module, Upsample2D):
            interpolates = module.interpolate and not module.use_conv_transpose and module.norm is None
            if interpolates and _fits(getattr(module, "conv", None)):
                setattr(model, name, DoublingUpsample(module.conv))
                count += 1
            continue
        if isinstance(module, nn.Upsample) and isinstance(model, nn.Sequential):
            following = model._modules.get(str(int(name) + 1)) if name.isdigit() else None
            if module.mode == "nearest" and module.scale_factor == 2 and _fits(following):
                setattr(model, name, DoubledConv(following))  # type: ignore[arg-type]
                setattr(model, str(int(name) + 1), nn.Identity())
                count += 1
            continue
        count += fold(module)
    return count


def _fits(conv: nn.Module | None) -> bool:
    return (
        type(conv) is nn.Conv2d
        and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
    )


def _summed(weight: torch.Tensor, rows: tuple[int, ...], columns: tuple[int, ...]) -> torch.Tensor:
    return weight[:, :, list(rows)][:, :, :, list(columns)].float().sum((-2, -1)).to(weight.dtype)
