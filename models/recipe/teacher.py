"""The many-step teacher: the one-step painter, fine-tuned to denoise from every noise level.

Its ODE keeps the coupling of noise and open attributes that `captions` describes, so that the
same noise leads teacher and student to the same place, size and style.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from models.recipe import captions, data, networks, painter, text
from models.recipe.common import Settings

DROPPED = 0.1


def loss_of(model: painter.Painter, batch: painter.Batch) -> torch.Tensor:
    """Squared error of the clean latents over all noise levels, weighted as a v-loss is.

    A tenth of the captions is empty, so that guidance has something to steer away from.
    """
    levels = networks.sigmas()
    count = len(batch.ids)
    timesteps = torch.randint(networks.TIMESTEPS, (count,))
    timesteps[: count // 5] = networks.TIMESTEPS - 1
    sigma = levels[timesteps].view(-1, 1, 1, 1)
    noisy = batch.clean + sigma * batch.noise
    empty = batch.ids[:1].clone()
    empty[:, 1:] = empty[:, -1:]
    ids = torch.where(torch.rand(count, 1) < DROPPED, empty, batch.ids)
    seen = model(ids, noisy, timesteps, levels)
    weight = (1 + 1 / sigma.square()).clamp(max=5)
    return (weight * F.mse_loss(seen, batch.clean, reduction="none")).mean()


def train(settings: Settings, emoji: data.EmojiSet) -> Path:
    """Trains or resumes, starting from the one-step painter."""
    composer = captions.Composer(emoji.concepts)
    tokenizer = text.tokenizer(settings.work / "tokenizer", composer.all_texts())

    def begin(model: painter.Painter) -> None:
        model.load_state_dict(painter.load(settings.work / "one_step.pt", tokenizer).state_dict())

    steps = settings.steps or (20 if settings.quick else 3800)
    plan = painter.Plan("teacher", steps, 5e-4, wide_every=12)
    banks = painter.banks(settings, emoji)
    return painter.fit(settings, plan, composer, tokenizer, banks, loss_of, begin)
