"""The autoencoder: pictures to latents a quarter of the side, and back.

An `AutoencoderTiny` (Bohan, TAESD) with two halvings. The decoder squashes its input with
3 tanh(z / 3), so the latents it is trained on pass through the same curve.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny

from models.recipe import common, data
from models.recipe.common import Settings

BATCH = 16


def build(scaling_factor: float = 1.0) -> AutoencoderTiny:
    """An untrained autoencoder of the shipped shape."""
    return AutoencoderTiny(
        in_channels=3,
        out_channels=3,
        latent_channels=common.CHANNELS,
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(1, 1, 2),
        num_decoder_blocks=(2, 1, 1),
        upsampling_scaling_factor=2,
        scaling_factor=scaling_factor,
    )


def random_batch(canvases: Any, rng: np.random.Generator, count: int) -> torch.Tensor:
    """Random pictures (count, 3, side, side) in [-1, 1]."""
    concepts, styles, layouts = canvases.shape[:3]
    drawn = canvases[
        rng.integers(concepts, size=count),
        rng.integers(styles, size=count),
        rng.integers(layouts, size=count),
    ]
    pictures = data.over(drawn, rng.integers(len(data.COLOURS), size=count))
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).mul(2).sub(1)


def _edges(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return picture.diff(dim=-1), picture.diff(dim=-2)


def loss_of(model: AutoencoderTiny, pictures: torch.Tensor, noise: float) -> torch.Tensor:
    """L1 plus half an L1 of the gradients, with a little noise on the latents."""
    latents = model.encoder(pictures)
    latents = latents + noise * torch.randn_like(latents)
    seen = model.decoder(latents).float()
    loss = F.l1_loss(seen, pictures)
    for ours, theirs in zip(_edges(seen), _edges(pictures), strict=True):
        loss = loss + 0.5 * F.l1_loss(ours, theirs)
    return loss + 1e-3 * latents.square().mean()


def train(settings: Settings, emoji: data.EmojiSet) -> Path:
    """Trains or resumes; returns the checkpoint that `load` reads."""
    steps = settings.steps or (60 if settings.quick else 4500)
    path = settings.work / "autoencoder.pt"
    torch.manual_seed(settings.seed)
    canvases = data.canvases(emoji)
    model = build().to(memory_format=torch.channels_last)
    average = common.Average(model, 0.998)
    optimiser = torch.optim.AdamW(model.parameters(), 1.5e-3, betas=(0.9, 0.98), weight_decay=1e-4)
    start = 0
    state = common.load_checkpoint(path) if settings.resume else None
    if state:
        model.load_state_dict(state["model"])
        average.module.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        start = average.seen = state["step"]
    with common.bar(steps, start, "autoencoder") as progress:
        for step in range(start, steps):
            rng = np.random.default_rng((settings.seed, step))
            torch.manual_seed(settings.seed * 1_000_003 + step)
            for group in optimiser.param_groups:
                group["lr"] = 1.5e-3 * common.schedule(step, steps)
            pictures = random_batch(canvases, rng, BATCH)
            with common.fast():
                loss = loss_of(model, pictures.to(memory_format=torch.channels_last), 0.05)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            average.update(model)
            progress.update()
            last = step + 1 == steps
            if last or step % 500 == 499:
                progress.set_postfix(loss=f"{loss.item():.4f}")
                common.save_checkpoint(
                    path,
                    {
                        "model": model.state_dict(),
                        "average": average.module.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "step": step + 1,
                    },
                )
    return path


def load(path: Path) -> AutoencoderTiny:
    """The averaged autoencoder, its scaling factor not yet set."""
    state = common.load_checkpoint(path)
    if state is None:
        raise FileNotFoundError(path)
    model = build()
    model.load_state_dict(state["average"])
    return model.eval().requires_grad_(False)


@torch.no_grad()
def encode(model: AutoencoderTiny, pictures: torch.Tensor) -> torch.Tensor:
    """Latents as the decoder sees them, unscaled: (B, 4, side / 4, side / 4)."""
    return torch.tanh(model.encoder(pictures) / 3) * 3
