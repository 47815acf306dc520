"""One-step training: from pure noise at t = 999 straight to the picture the caption asks for."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from models.recipe import captions, common, data, networks, painter, text
from models.recipe.common import Settings

LAST = networks.TIMESTEPS - 1


def loss_of(model: painter.Painter, batch: painter.Batch) -> torch.Tensor:
    """Squared error of the single Euler step from the highest noise level to none.

    The sampler starts from noise alone, so nothing of the clean latents is mixed in.
    """
    levels = networks.sigmas()
    timesteps = torch.full((len(batch.ids),), LAST)
    seen = model(batch.ids, batch.noise * levels[LAST], timesteps, levels)
    return F.mse_loss(seen, batch.clean)


def train(settings: Settings, emoji: data.EmojiSet) -> Path:
    """Trains or resumes, starting from the text side's head start."""
    folder = settings.work / "tokenizer"
    composer = captions.Composer(emoji.concepts)
    tokenizer = text.tokenizer(folder, composer.all_texts())

    def begin(model: painter.Painter) -> None:
        state = common.load_checkpoint(settings.work / "text.pt")
        if state is not None:
            model.encoder.load_state_dict(state["encoder"])
            model.unet.add_embedding.load_state_dict(state["embedding"])

    plan = painter.Plan("one_step", settings.steps or (30 if settings.quick else 7000), 1e-3)
    bank = painter.Bank.of(settings, emoji)
    return painter.fit(settings, plan, composer, tokenizer, (bank,), loss_of, begin)
