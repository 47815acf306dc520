"""The text side learns free captions: words that it does not know must not hide the thing.

The encoder of the student is trained on. For a free caption it must say to the UNet what
it said for the same request in the model's own words. The UNet takes two things from the words: the
text embedding, and what its cross-attentions fetch. Both are compared, and the UNet itself never
runs, so that a step is some hundred times cheaper than one of the painter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from models.recipe import captions, common, data, free_captions, networks, painter, text
from models.recipe.common import Settings

BATCH = 128
LR = 6e-4
QUERIES = 12
LEVELS = (networks.TIMESTEPS - 1, 499)
"""The timesteps whose queries stand for all."""
FREE_SHARE = 0.85


class Readings(nn.Module):
    """What a UNet reads from the words, for typical queries of its cross-attentions."""

    def __init__(self, model: painter.Painter, ids: torch.Tensor, noise: torch.Tensor) -> None:
        super().__init__()
        self.embedding = model.unet.add_embedding
        self.attentions = nn.ModuleList(m for name, m in model.unet.named_modules() if name.endswith("attn2"))
        self.queries = _typical_queries(model, list(self.attentions), ids, noise)

    def forward(self, words: torch.Tensor) -> list[torch.Tensor]:
        """Words (B, TOKENS, WIDTH) to the embedding (B, 384) and fetched values (B, QUERIES, inner) each."""
        seen: list[torch.Tensor] = [self.embedding(words)]
        for attention, queries in zip(self.attentions, self.queries, strict=True):
            seen.append(_fetch(attention, queries.expand(len(words), -1, -1), words))
        return seen


def _fetch(attention: Any, queries: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Values (B, Q, inner) that an attention layer fetches from the words for given queries."""

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (attention.heads, -1)).transpose(1, 2)

    keys, values = heads(attention.to_k(words)), heads(attention.to_v(words))
    fetched = F.scaled_dot_product_attention(heads(queries), keys, values)
    seen: torch.Tensor = attention.to_out[0](fetched.transpose(1, 2).flatten(2))
    return seen


@torch.no_grad()
def _typical_queries(
    model: painter.Painter, layers: list[Any], ids: torch.Tensor, noise: torch.Tensor
) -> list[torch.Tensor]:
    """Queries (1, LEVELS x QUERIES, inner) of each layer, picked from a walk that begins at pure noise."""
    caught: list[list[torch.Tensor]] = [[] for _ in layers]
    hooks = [
        layer.to_q.register_forward_hook(lambda _m, _i, out, mine=mine: mine.append(_some(out.flatten(0, 1))))
        for layer, mine in zip(layers, caught, strict=True)
    ]
    levels = networks.sigmas()
    sample = noise * levels[LEVELS[0]]
    for step, t in enumerate(LEVELS):
        seen = model(ids, sample, torch.full((len(ids),), t), levels)
        if step + 1 < len(LEVELS):
            sample = seen + levels[LEVELS[step + 1]] / levels[t] * (sample - seen)
    for hook in hooks:
        hook.remove()
    return [torch.cat(rows)[None] for rows in caught]


def _some(rows: torch.Tensor) -> torch.Tensor:
    return rows[torch.randperm(len(rows))[:QUERIES]].float()


def train(settings: Settings, emoji: data.EmojiSet) -> Path:
    """Trains or resumes; returns the checkpoint, whose `average` is the student with the new encoder."""
    steps = settings.steps or (20 if settings.quick else 1200)
    path = settings.work / "free_text.pt"
    torch.manual_seed(settings.seed)
    texts = captions.Composer(emoji.concepts).all_texts()
    tokenizer = text.tokenizer(settings.work / "tokenizer", texts)
    composer = free_captions.FreeComposer(emoji.concepts, tokenizer, FREE_SHARE)
    told = painter.load(painter.newest(settings, "few_steps", "distil"), tokenizer)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((settings.seed, 4, step))
        requests = composer.batch(rng, BATCH, step * BATCH)
        free = text.tokens(tokenizer, [request.caption for request in requests])
        return free, text.tokens(tokenizer, [composer.plain(request) for request in requests])

    readings = Readings(told, batch(0)[1], torch.randn(BATCH, common.CHANNELS, 16, 16))
    encoder = copy.deepcopy(told.encoder).requires_grad_(True)
    optimiser = torch.optim.AdamW(encoder.parameters(), LR, betas=(0.9, 0.98), weight_decay=1e-3)
    start = 0
    state = common.load_checkpoint(path) if settings.resume else None
    if state:
        encoder.load_state_dict(state["encoder"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    running = 1.0
    with common.bar(steps, start, "free_text") as progress:
        for step in range(start, steps):
            for group in optimiser.param_groups:
                group["lr"] = LR * common.schedule(step, steps)
            free, plain = batch(step)
            with common.fast():
                loss = _loss(readings, told.encoder, encoder, free, plain)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimiser.step()
            running += 0.02 * (loss.item() - running)
            progress.update()
            if step + 1 == steps or step % 250 == 249:
                progress.set_postfix(loss=f"{running:.4f}")
                common.save_checkpoint(
                    path,
                    {
                        "average": {**told.state_dict(), **_named(encoder)},
                        "encoder": encoder.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "step": step + 1,
                    },
                )
    return path


def _named(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """The encoder's weights under a painter's names."""
    return {f"encoder.{name}": value for name, value in encoder.state_dict().items()}


def _loss(
    readings: Readings,
    teacher: Callable[..., Any],
    encoder: Callable[..., Any],
    free: torch.Tensor,
    plain: torch.Tensor,
) -> torch.Tensor:
    """Mean over the readings of the squared error, each in units of its variance over the batch."""
    with torch.no_grad():
        wanted = readings(teacher(plain).last_hidden_state)
    seen = readings(encoder(free).last_hidden_state)
    parts = [F.mse_loss(s, w) / w.var(0).mean() for s, w in zip(seen, wanted, strict=True)]
    return torch.stack(parts).mean()
