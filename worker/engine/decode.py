"""Finished latents to bytes: one VAE batch, and what is no picture told apart."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch

from contracts.engine import ImageFault, Pixels
from contracts.failures import InvalidOutput
from worker.engine.padded_batch import RecordedNetwork, Recorder, run_padded
from worker.engine.samples import Sample, dtype_of

BLACK: Final = 2
"""A picture whose brightest value, of 255, is no more than this is no picture: half precision has overflowed."""


class Decoder:
    """The VAE of one pipeline. `fixed`: images in one call."""

    def __init__(self, pipeline: Any, fixed: int | None = None, recorder: Recorder | None = None) -> None:
        self._pipeline = pipeline
        self._fixed = fixed
        self._recorded = None if recorder is None else RecordedNetwork(self._images, recorder)

    def decode(self, samples: Sequence[Sample]) -> list[Pixels | ImageFault]:
        """The pictures of finished samples."""
        latents = torch.cat([sample.latents for sample in samples])
        images = run_padded(
            self._recorded or self._images, self._fixed, _unscaled(self._pipeline.vae, latents)
        )
        # A decoder that squashes its input, as the tiny ones do, would make a picture of infinity.
        return to_pixels(images, [sample.warnings for sample in samples], finite=_finite(latents))

    def eager(self) -> AbstractContextManager[None]:
        """Around changes of the VAE's weights: no recording of it is replayed."""
        return nullcontext() if self._recorded is None else self._recorded.aside()

    def _images(self, latents: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = self._pipeline.vae.decode(latents, return_dict=False)[0]
        return images


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
    return latents.to(dtype_of(vae))
