"""Finished latents to bytes: one VAE batch, and what is no picture told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from contracts.engine import ImageFault, Pixels
from contracts.errors import InvalidOutput
from worker.engine.rows import by_rows
from worker.engine.samples import Sample

BLACK: Final = 2
"""A picture whose brightest value, of 255, is no more than this is no picture: half precision has overflowed."""


def decode(vae: Any, samples: Sequence[Sample], fixed: int | None = None) -> list[Pixels | ImageFault]:
    """The pictures of finished samples; with `fixed` in calls of so many."""
    latents = torch.cat([sample.latents for sample in samples])
    images = by_rows(lambda part: vae.decode(part, return_dict=False)[0], fixed, _unscaled(vae, latents))
    # A decoder that squashes its input, as the tiny ones do, would make a picture of infinity.
    return to_pixels(images, [sample.warnings for sample in samples], finite=_finite(latents))


def to_pixels(
    images: torch.Tensor, warnings: Sequence[tuple[str, ...]], *, finite: torch.Tensor
) -> list[Pixels | ImageFault]:
    """`images`, (B, 3, height, width) in -1..1, as bytes; `finite` (B,): whether each came of numbers."""
    images = images.float()
    finite = finite & _finite(images)
    levels = images.mul(127.5).add_(127.5).clamp_(0, 255).round_()
    brightest = levels.amax((1, 2, 3))
    # One copy off the device for all. Of values that are no numbers the conversion makes anything: they are not read.
    data = levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    height, width = data.shape[1:3]
    made: list[Pixels | ImageFault] = []
    for picture, is_finite, level, notes in zip(
        data, finite.tolist(), brightest.tolist(), warnings, strict=True
    ):
        if not is_finite:
            made.append(ImageFault(InvalidOutput.code, "The picture holds values that are no numbers."))
        elif level <= BLACK:
            made.append(ImageFault(InvalidOutput.code, "The picture is black."))
        else:
            made.append(Pixels(width, height, picture.tobytes(), notes))
    return made


def _finite(values: torch.Tensor) -> torch.Tensor:
    """(B,): NaN and infinity survive the sum, which reads each value once; nothing finite is so large as to overflow it."""
    return torch.isfinite(values.sum((1, 2, 3)))


def _unscaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    config = vae.config
    mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and deviation is not None:
        shape = (1, -1, 1, 1)
        latents = latents * torch.tensor(deviation, device=latents.device).view(shape) / config.scaling_factor
        latents = latents + torch.tensor(mean, device=latents.device).view(shape)
    else:
        latents = latents / config.scaling_factor
    return latents.to(vae.dtype)
