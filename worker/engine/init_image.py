"""A picture to start from, into the space of the latents."""

from __future__ import annotations

from typing import Any

import torch

from contracts.engine import BatchKey


def encode(vae: Any, key: BatchKey, rgb: bytes, generator: torch.Generator) -> torch.Tensor:
    """`rgb`, height * width * 3 bytes, as latents (1, C, h, w), float32, through the VAE's encoder: alone, so that a picture has
    the same latents in any company. Of an encoder that answers a distribution they are drawn by `generator`, as diffusers does,
    before the noise."""
    pixels = torch.frombuffer(bytearray(rgb), dtype=torch.uint8).view(1, key.height, key.width, 3)
    image = pixels.permute(0, 3, 1, 2).to(vae.device, vae.dtype).div_(127.5).sub_(1)
    answer = vae.encode(image.contiguous(memory_format=torch.channels_last))
    if hasattr(answer, "latent_dist"):
        spread = answer.latent_dist
        # On the CPU, as the noise: a seed means the same on every machine.
        unit = torch.randn(spread.mean.shape, generator=generator).to(spread.mean.device)
        latents = spread.mean.float() + spread.std.float() * unit
    else:
        latents = answer.latents.float()
    return _scaled(vae.config, latents)


def _scaled(config: Any, latents: torch.Tensor) -> torch.Tensor:
    """As the UNet knows them: the other way round than `decode` does."""
    mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or deviation is None:
        scaled: torch.Tensor = latents * config.scaling_factor
        return scaled
    shape = (1, -1, 1, 1)
    latents = latents - torch.tensor(mean, device=latents.device).view(shape)
    rescaled: torch.Tensor = (
        latents * config.scaling_factor / torch.tensor(deviation, device=latents.device).view(shape)
    )
    return rescaled
