"""Doubling an image and convolving it, in four ninths of the multiplications.

Of the nine values that a 3 x 3 kernel reads from an image doubled by nearest neighbours, some are the same pixel: each of the four
phases of the output (even and odd rows and columns) is a 2 x 2 convolution of the small image, with the weights that meet on one
pixel added up beforehand. The same up to rounding; the large image in between is never made.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch import nn

_PHASES: Final = (((0,), (1, 2)), ((0, 1), (2,)))
"""For even and odd outputs: which rows of the kernel meet on the first, and which on the second of the two pixels read."""


class DoubledConv(nn.Module):
    """`conv(F.interpolate(x, scale_factor=2, mode="nearest"))` of a 3 x 3 convolution with padding 1: (B, C, h, w) to (B, D, 2h, 2w)."""

    weight: torch.Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        whole = conv.weight.detach()
        phases = [
            torch.stack(
                [torch.stack([_met(whole, up, left) for left in _PHASES[column]], -1) for up in _PHASES[row]],
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
        batch, _channels, height, width = x.shape
        parts = F.conv2d(x, self.weight, self.bias, padding=1).chunk(4, 1)
        made = torch.empty(
            batch,
            parts[0].shape[1],
            2 * height,
            2 * width,
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        for number, part in enumerate(parts):
            row, column = divmod(number, 2)
            made[:, :, row::2, column::2] = part[:, :, row : row + height, column : column + width]
        return made


class DoublingUpsample(nn.Module):
    """diffusers' `Upsample2D` where it doubles."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = DoubledConv(conv)

    def forward(
        self, hidden_states: torch.Tensor, output_size: Any = None, *_: Any, **__: Any
    ) -> torch.Tensor:
        """Raises ValueError when asked for another size, as for images whose size is no multiple of the model's."""
        height, width = hidden_states.shape[-2:]
        if output_size is not None and tuple(output_size) != (2 * height, 2 * width):
            raise ValueError(f"The image's size is no multiple of the model's: {tuple(output_size)}.")
        answer: torch.Tensor = self.conv(hidden_states)
        return answer


def fold(model: nn.Module) -> int:
    """Replace every doubling with a convolution behind it in `model`; answers how many."""
    count = 0
    for name, module in list(model.named_children()):
        if isinstance(module, Upsample2D):
            plain = module.interpolate and not module.use_conv_transpose and module.norm is None
            if plain and _fits(getattr(module, "conv", None)):
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


def _met(weight: torch.Tensor, rows: tuple[int, ...], columns: tuple[int, ...]) -> torch.Tensor:
    return weight[:, :, list(rows)][:, :, :, list(columns)].float().sum((-2, -1)).to(weight.dtype)
