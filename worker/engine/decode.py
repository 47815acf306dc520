"""Latents to RGB bytes and embeddings, through the VAE in one batch. Invalid images are reported and not
returned."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch

from contracts.engine import ImageFault, Pixels
from contracts.failures import InvalidOutput
from worker.engine import embedding
from worker.engine.denoiser import Sample, dtype_of
from worker.engine.embedding import ImageEmbedder
from worker.engine.padded_batch import RecordedNetwork, Recorder, run_padded

BLACK: Final = 2
"""The brightest level, of 255, up to which an image counts as black: half precision has overflowed."""


class Decoder:
    """The VAE of one pipeline.

    `fixed_batch` is the number of images in every call; None leaves it open. `recorder` records the
    VAE's calls; None runs it eagerly. `embedder` embeds finished images; None: nothing does.
    """

    def __init__(
        self,
        pipeline: Any,
        fixed_batch: int | None = None,
        recorder: Recorder | None = None,
        embedder: ImageEmbedder | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._embedder = embedder
        self._fixed_batch = fixed_batch
        self._recorded = None if recorder is None else RecordedNetwork(self._decode_latents, recorder)

    def decode(self, samples: Sequence[Sample], finished: int = 0) -> list[Pixels | ImageFault]:
        """Decode the `latents` of samples. Returns the images in order, or why an image is invalid.

        The first `finished` images are embedded. The others are previews, or drawn for a test.
        """
        latents = torch.cat([sample.latents for sample in samples])
        images = run_padded(
            self._recorded or self._decode_latents, self._fixed_batch, _unscaled(self._pipeline.vae, latents)
        )
        # The latents are checked too: a decoder that squashes its input, as the tiny ones do, would make an
        # image of infinity.
        return to_pixels(
            images,
            [sample.warnings for sample in samples],
            finite=_finite(latents),
            embedder=self._embedder if finished else None,
            finished=finished,
        )

    def eager(self) -> AbstractContextManager[None]:
        """Return a context for changes of the VAE's weights: inside, no recording of it is replayed."""
        return nullcontext() if self._recorded is None else self._recorded.aside()

    def _decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = self._pipeline.vae.decode(latents, return_dict=False)[0]
        return images


def to_pixels(
    images: torch.Tensor,
    warnings: Sequence[tuple[str, ...]],
    *,
    finite: torch.Tensor,
    embedder: ImageEmbedder | None = None,
    finished: int = 0,
) -> list[Pixels | ImageFault]:
    """Return `images` as bytes, or why one is invalid, in order.

    `images` is (B, 3, height, width) in -1..1, of any floating point dtype. `warnings` holds those
    of each image. `finite` is (B,), bool: whether the latents of each image were finite. `embedder`
    embeds the first `finished` images, as they are served: rounded to whole levels.
    """
    images = images.float()
    finite = finite & _finite(images)
    levels = images.mul(127.5).add_(127.5).clamp_(0, 255).round_()
    brightest = levels.amax((1, 2, 3))
    # Before the copy off the device, which waits for it: the device then goes on without a gap.
    vectors = None if embedder is None else embedding.tried(embedder, levels[:finished])
    # One copy off the device for the whole batch. Converting NaN is undefined; such images are not read.
    data = levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    height, width = data.shape[1:3]
    embeddings = [] if vectors is None else embedding.as_bytes(vectors)
    embeddings += [None] * (len(data) - len(embeddings))
    results: list[Pixels | ImageFault] = []
    for image, is_finite, level, image_warnings, vector in zip(
        data, finite.tolist(), brightest.tolist(), warnings, embeddings, strict=True
    ):
        if not is_finite:
            results.append(ImageFault(InvalidOutput.code, "The picture holds values that are no numbers."))
        elif level <= BLACK:
            results.append(ImageFault(InvalidOutput.code, "The picture is black."))
        else:
            results.append(Pixels(width, height, image.tobytes(), image_warnings, vector))
    return results


def _finite(values: torch.Tensor) -> torch.Tensor:
    """(B,), bool, of values (B, C, h, w).

    NaN and infinity survive the sum, which reads each value once. Finite values are too small to
    overflow it.
    """
    return torch.isfinite(values.sum((1, 2, 3)))


def _unscaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        shape = (1, -1, 1, 1)
        latents = latents * torch.tensor(std, device=latents.device).view(shape) / config.scaling_factor
        latents = latents + torch.tensor(mean, device=latents.device).view(shape)
    else:
        latents = latents / config.scaling_factor
    return latents.to(dtype_of(vae))
