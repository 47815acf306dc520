"""The last stage: the student learns every noise level that few trailing steps visit.

Each batch starts from pure noise, as the sampler does. Some rows go on along the student's own Euler
steps, for 2, 4 or 8 steps in all, and every estimate on the way is compared with the truth. So the
student learns from the states that it will meet, with its own errors in them (as in Ross et al.
2011, "A reduction of imitation learning and structured prediction to no-regret online learning").
Further rows start from an image under fresh noise, as image-to-image does. There the image decides
the place, not the noise. Where the noise is high, half of these images show another thing than the
caption, and the target shows the caption's thing at the image's place.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTokenizer

from models.recipe import captions, data, free_captions, networks, one_step, painter, text
from models.recipe.common import Settings

COUNTS = (2, 4, 4, 2, 4, 8)
"""The walks in turn, by their steps."""
FIRST = 3.0
"""What the first step weighs beside the later ones: a step too many must not cost the one step."""
TRUTH = 0.5
REPAINTED_FROM = 450
"""The lowest timestep at which an image of another thing is painted over."""


def trailing(count: int) -> list[int]:
    """The timesteps that `count` trailing steps visit, first to last."""
    return [round(networks.TIMESTEPS * (count - step) / count) - 1 for step in range(count)]


VISITED = tuple(sorted({t for count in range(1, 9) for t in trailing(count)} - {networks.TIMESTEPS - 1}))


def weighted(seen: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Squared error of the clean latents, weighted as a v-loss is, at most fivefold."""
    weight = (1 + 1 / sigma.square()).clamp(max=5).reshape(-1, 1, 1, 1)
    return (weight * F.mse_loss(seen, clean, reduction="none")).mean()


def chain_loss(model: painter.Painter, batch: painter.Batch, count: int, told: torch.Tensor) -> torch.Tensor:
    """The error from pure noise, plus the mean error over the later steps of `count`.

    The first step learns from `told`, latents (B, 4, h, w), and the later ones from the truth. They
    take as many rows in all as the first, so few rows each.
    """
    levels = networks.sigmas()
    rows = max(1, len(batch.clean) // (count - 1))
    ids, clean = batch.ids, batch.clean
    down = trailing(count)
    sample = batch.noise * levels[down[0]]
    losses = []
    for step, t in enumerate(down):
        seen = model(ids, sample, torch.full((len(ids),), t), levels)
        losses.append(weighted(seen, clean if step else told, levels[t]))
        if step == 0:
            ids, clean, sample, seen = ids[:rows], clean[:rows], sample[:rows], seen[:rows]
        if step + 1 < count:
            estimate = seen.detach()
            sample = estimate + levels[down[step + 1]] / levels[t] * (sample - estimate)
    return FIRST * losses[0] + torch.stack(losses[1:]).mean()


def others(batch: painter.Batch, rows: int) -> torch.Tensor:
    """Latents (rows, 4, h, w) of another row's image each, at the place of the last rows' own."""
    layouts = batch.where[2]
    clean = torch.empty_like(batch.clean)
    for layout in np.unique(layouts):
        same = np.flatnonzero(layouts == layout)
        clean[same] = batch.clean[np.roll(same, 1)]
    return clean[-rows:]


def image_loss(model: painter.Painter, batch: painter.Batch) -> torch.Tensor:
    """The error from images under fresh noise, at a quarter of the batch's rows."""
    levels = networks.sigmas()
    rows = max(1, len(batch.clean) // 4)
    clean = batch.clean[-rows:]
    timesteps = torch.tensor(VISITED)[torch.randint(len(VISITED), (rows,))]
    anywhere = torch.rand(rows) < 0.3
    timesteps[anywhere] = torch.randint(20, networks.TIMESTEPS - 1, (int(anywhere.sum()),))
    other = (timesteps >= REPAINTED_FROM) & (torch.rand(rows) < 0.5)
    source = torch.where(other.view(-1, 1, 1, 1), others(batch, rows), clean)
    sigma = levels[timesteps].view(-1, 1, 1, 1)
    noisy = batch.bank.as_encoded(source) + sigma * torch.randn_like(clean)
    return weighted(model(batch.ids[-rows:], noisy, timesteps, levels), clean, sigma)


def beginning(settings: Settings, tokenizer: CLIPTokenizer) -> painter.Painter:
    """What the stage begins from: the teacher's UNet, reading the student's text encoder.

    The student's UNet knows no level but the highest. The teacher's knows all, and it finds its way
    through the student's words from the highest better than through its own.
    """
    begun = painter.load(settings.work / "teacher.pt", tokenizer)
    student = painter.load(settings.work / "distil.pt", tokenizer)
    begun.encoder.load_state_dict(student.encoder.state_dict())
    return begun


def train(settings: Settings, emoji: data.EmojiSet) -> Path:
    """Trains or resumes.

    At the highest level the distilled student is the teacher: what it draws in one step, mixed with
    the truth, is what the first step of every walk must draw.
    """
    texts = captions.Composer(emoji.concepts).all_texts()
    tokenizer = text.tokenizer(settings.work / "tokenizer", texts)
    composer = free_captions.FreeComposer(emoji.concepts, tokenizer)
    student = painter.load(settings.work / "distil.pt", tokenizer)
    levels = networks.sigmas()

    def loss_of(model: painter.Painter, batch: painter.Batch) -> torch.Tensor:
        timesteps = torch.full((len(batch.ids),), one_step.LAST)
        plain = text.tokens(tokenizer, [composer.plain(request) for request in batch.requests])
        with torch.no_grad():
            told = student(plain, batch.noise * levels[one_step.LAST], timesteps, levels)
        walked = chain_loss(model, batch, COUNTS[batch.step % len(COUNTS)], told.lerp(batch.clean, TRUTH))
        return walked + 0.5 * image_loss(model, batch)

    def begin(model: painter.Painter) -> None:
        model.load_state_dict(beginning(settings, tokenizer).state_dict())

    steps = settings.steps or (6 if settings.quick else 1530)
    plan = painter.Plan("few_steps", steps, 4e-4, wide_every=16, warm=20)
    banks = painter.banks(settings, emoji)
    return painter.fit(settings, plan, composer, tokenizer, banks, loss_of, begin)
