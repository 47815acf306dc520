"""Distillation: the student's one step learns the teacher's whole trajectory.

The teacher walks from noise to a picture in 25 Euler steps; the student must land there in one,
from the same noise (Luhman and Luhman 2021, "Knowledge distillation in iterative generative
models"). A share of ground truth keeps the student from learning the teacher's mistakes.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from models.recipe import captions, data, networks, one_step, painter, text
from models.recipe.common import Settings

TEACHER_STEPS = 25
TRUTH = 0.5


@torch.no_grad()
def walk(teacher: painter.Painter, ids: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The teacher's picture from this noise, by its own sampler: latents (B, 4, h, w)."""
    sampler = networks.scheduler()
    sampler.set_timesteps(TEACHER_STEPS)
    words = teacher.encoder(ids).last_hidden_state
    sample = noise * sampler.init_noise_sigma
    for timestep in sampler.timesteps:
        seen = teacher.unet(sampler.scale_model_input(sample, timestep), timestep, words)
        sample = sampler.step(seen.sample.float(), timestep, sample).prev_sample
    return sample


def train(settings: Settings, emoji: data.EmojiSet) -> Path:
    """Trains or resumes, starting from the one-step painter.

    Every fourth step walks the teacher afresh; the steps between use ground truth, which the
    coupling makes as good a target and 25 times cheaper.
    """
    composer = captions.Composer(emoji.concepts)
    tokenizer = text.tokenizer(settings.work / "tokenizer", composer.all_texts())
    teacher = painter.load(settings.work / "teacher.pt", tokenizer)
    levels = networks.sigmas()

    def loss_of(model: painter.Painter, batch: painter.Batch) -> torch.Tensor:
        clean = batch.clean
        if batch.step % 4 == 0:
            rows = len(clean) // 2
            told = walk(teacher, batch.ids[:rows], batch.noise[:rows])
            clean = torch.cat([told.lerp(clean[:rows], TRUTH), clean[rows:]])
        timesteps = torch.full((len(clean),), one_step.LAST)
        seen = model(batch.ids, batch.noise * levels[one_step.LAST], timesteps, levels)
        return F.mse_loss(seen, clean)

    def begin(model: painter.Painter) -> None:
        model.load_state_dict(painter.load(settings.work / "one_step.pt", tokenizer).state_dict())

    steps = settings.steps or (10 if settings.quick else 2000)
    plan = painter.Plan("distil", steps, 5e-4, wide_every=8)
    banks = painter.banks(settings, emoji)
    return painter.fit(settings, plan, composer, tokenizer, banks, loss_of, begin)
