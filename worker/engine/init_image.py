"""Init images to latents."""

from __future__ import annotations

from typing import Any

import torch

from contracts.engine import BatchKey


def encode(vae: Any, key: BatchKey, rgb: bytes, generator: torch.Generator) -> torch.Tensor:
    """Return the latents of an init image, (1, C, h, w), float32, by the encoder of `vae`.

    `rgb` holds height * width * 3 bytes of the size in `key`. Each image is encoded alone, so its
    latents are the same whatever it is batched with. Some encoders return a distribution. Then
    `generator`, on the CPU, draws the latents before it draws the noise, as diffusers does.
    """
    pixels = torch.frombuffer(bytearray(rgb), dtype=torch.uint8).view(1, key.height, key.width, 3)
    image = pixels.permute(0, 3, 1, 2).to(vae.device, vae.dtype).div_(127.5).sub_(1)
    encoded = vae.encode(image.contiguous(memory_format=torch.channels_last))
    if hasattr(encoded, "latent_dist"):
        latent_dist = encoded.latent_dist
        # Drawn on the CPU, as the noise is: a seed gives the same values on every machine.
        noise = torch.randn(latent_dist.mean.shape, generator=generator).to(latent_dist.mean.device)
        latents = latent_dist.mean.float() + latent_dist.std.float() * noise
    else:
        latents = encoded.latents.float()
    return _scaled(vae.config, latents)


def _scaled(config: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents at the scale that the UNet was trained with. `decode` reverses this."""
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        scaled: torch.Tensor = latents * config.scaling_factor
        return scaled
    shape = (1, -1, 1, 1)
    latents = latents - torch.tensor(mean, device=latents.device).view(shape)
    rescaled: torch.Tensor = (
        latents * config.scaling_factor / torch.tensor(std, device=latents.device).view(shape)
    )
    return rescaled
