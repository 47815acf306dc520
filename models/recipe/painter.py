"""The painter (text encoder and UNet), the bank of latents, and the loop that fits one to the other.

The stages one_step, teacher and distil differ only in the loss of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn
from transformers import CLIPTokenizer

from models.recipe import autoencoder, captions, common, data, networks, text
from models.recipe.common import Crew, Settings
from models.recipe.muon import Both


class Painter(nn.Module):
    """Text encoder and UNet, as one module."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.encoder = networks.text_encoder(tokenizer)
        self.unet = networks.unet()

    def forward(
        self, ids: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor, levels: torch.Tensor
    ) -> torch.Tensor:
        """Clean latents (B, 4, h, w) as seen from `noisy` at these timesteps."""
        words = self.encoder(ids).last_hidden_state
        return networks.denoise(self.unet, noisy, timesteps, words, levels)


class Bank:
    """Latents of every picture, scaled to unit variance: float16 on disk and in memory."""

    def __init__(self, latents: Any, scaling_factor: float) -> None:
        self.latents = latents
        self.scaling_factor = scaling_factor

    @classmethod
    def of(cls, settings: Settings, emoji: data.EmojiSet, side: int = data.SIDE_PX) -> Bank:
        """Encodes all pictures once (concept, style, layout, colour), or maps the saved file."""
        path = settings.work / f"latents{side}.npy"
        if not path.exists():
            vae = autoencoder.load(settings.work / "autoencoder.pt")
            rows = []
            drawn = data.canvases(emoji, side)
            for concept in common.progress(list(drawn), f"latents {side}"):
                flat = np.repeat(concept[:, :, None], len(data.COLOURS), 2)
                colours = np.arange(len(data.COLOURS)) * np.ones(flat.shape[:3], int)
                rows.append(_encode(vae, data.over(flat, colours)))
            partial = path.with_suffix(".partial.npy")
            np.save(partial, np.stack(rows))
            partial.replace(path)
        latents = np.load(path, mmap_mode="r")
        base = settings.work / f"latents{data.SIDE_PX}.npy"
        sample = np.load(base, mmap_mode="r")[::5].astype(np.float32)
        return cls(latents, float(1 / sample.std()))

    def get(self, where: tuple[Any, ...]) -> torch.Tensor:
        """Scaled latents (B, 4, h, w) of index arrays (concept, style, layout, colour)."""
        picked = np.stack([self.latents[i, j, k, c] for i, j, k, c in zip(*where, strict=True)])
        return torch.from_numpy(picked.astype(np.float32)) * self.scaling_factor

    def as_encoded(self, latents: torch.Tensor) -> torch.Tensor:
        """The same latents as the encoder alone gives them, before the decoder's 3 tanh(z / 3)."""
        return (
            3 * torch.atanh((latents / (3 * self.scaling_factor)).clamp(-0.999, 0.999)) * self.scaling_factor
        )


class LazyBank(Bank):
    """A bank that encodes each picture when it is first asked for, for stages that see few of them."""

    def __init__(
        self, vae: AutoencoderTiny, emoji: data.EmojiSet, scaling_factor: float, side: int = data.SIDE_PX
    ) -> None:
        shape = (*emoji.sprites.shape[:2], len(data.LAYOUTS), len(data.COLOURS))
        latent = side // common.FACTOR
        super().__init__(np.zeros((*shape, common.CHANNELS, latent, latent), np.float16), scaling_factor)
        self._vae, self._emoji, self._side = vae, emoji, side
        self._known = np.zeros(shape, bool)

    def get(self, where: tuple[Any, ...]) -> torch.Tensor:
        """As `Bank.get`, after the pictures that are asked for the first time are encoded."""
        new = list(dict.fromkeys(at for at in zip(*map(tuple, where), strict=True) if not self._known[at]))
        if new:
            drawn = [
                data.over(data.place(self._emoji.sprites[i, j], data.LAYOUTS[k], self._side), np.array(c))
                for i, j, k, c in new
            ]
            index = tuple(np.array(new).T)
            self.latents[index] = _encode(self._vae, np.stack(drawn)[:, None, None])[:, 0, 0]
            self._known[index] = True
        return super().get(where)


def scaling_factor(settings: Settings, emoji: data.EmojiSet) -> float:
    """One over the latents' deviation: the shipped autoencoder's own, or measured over the bank."""
    state = common.load_checkpoint(settings.work / "autoencoder.pt") or {}
    shipped: float | None = state.get("scaling_factor")
    return Bank.of(settings, emoji).scaling_factor if shipped is None else shipped


def banks(settings: Settings, emoji: data.EmojiSet) -> tuple[Bank, Bank]:
    """Latents at the usual size and at half as large again, which keeps other sizes sane."""
    wide = data.SIDE_PX * 3 // 2
    vae = settings.work / "autoencoder.pt"
    state = common.load_checkpoint(vae) or {}
    if "scaling_factor" in state:  # of the shipped folders: no stage before has filled a bank
        loaded, factor = autoencoder.load(vae), state["scaling_factor"]
        return LazyBank(loaded, emoji, factor), LazyBank(loaded, emoji, factor, wide)
    return Bank.of(settings, emoji), Bank.of(settings, emoji, wide)


def _encode(vae: AutoencoderTiny, pictures: Any) -> Any:
    shape = pictures.shape
    flat = torch.from_numpy(pictures.reshape(-1, *shape[-3:]))
    with common.fast():
        seen = autoencoder.encode(vae, flat.permute(0, 3, 1, 2).mul(2).sub(1))
    return seen.to(torch.float16).numpy().reshape(*shape[:3], *seen.shape[1:])


@dataclass(frozen=True, slots=True)
class Batch:
    """What a loss sees: token ids, noise and clean latents of the same rows.

    `where` holds the rows' index arrays into `bank`, as `captions.settle` returns them, and `requests`
    what the rows ask for.
    """

    ids: torch.Tensor
    noise: torch.Tensor
    clean: torch.Tensor
    step: int
    where: tuple[np.ndarray, ...]
    bank: Bank
    requests: list[captions.Request]


Loss = Callable[[Painter, Batch], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast a stage trains."""

    name: str
    steps: int
    lr: float
    batch: int = 48
    decay: float = 0.998
    save_every: int = 200
    wide_every: int = 0
    warm: int = 100


def fit(
    settings: Settings,
    plan: Plan,
    composer: captions.Composer,
    tokenizer: CLIPTokenizer,
    banks: tuple[Bank, ...],
    loss_of: Loss,
    begin: Callable[[Painter], None],
) -> Path:
    """Trains or resumes one stage; returns its checkpoint.

    `banks` holds the latents at the usual size and, optionally, a second larger size that every
    `wide_every`-th step uses. Every process of the crew draws its own rows.
    """
    crew = Crew.join()
    path = settings.work / f"{plan.name}.pt"
    torch.manual_seed(settings.seed)
    painter = Painter(tokenizer)
    optimiser = Both(painter.encoder, painter.unet, plan.lr)
    start = 0
    state = common.load_checkpoint(path) if settings.resume else None
    if state:
        painter.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    else:
        begin(painter)
    average = common.Average(painter, plan.decay)
    if state:
        average.module.load_state_dict(state["average"])
        average.seen = start
    parameters = list(painter.parameters())
    progress = common.bar(plan.steps, start, plan.name) if crew.rank == 0 else None
    running = 0.0
    for step in range(start, plan.steps):
        rng = np.random.default_rng((settings.seed, 2, step, crew.rank))
        torch.manual_seed((settings.seed * 1_000_003 + step) * 64 + crew.rank)
        wide = len(banks) > 1 and plan.wide_every and step % plan.wide_every == 0
        bank = banks[1] if wide else banks[0]
        count = plan.batch // 2 if wide else plan.batch
        requests = composer.batch(rng, count, (step * crew.size + crew.rank) * plan.batch)
        noise = torch.randn(count, *bank.latents.shape[4:])
        where = captions.settle(requests, noise)
        ids = text.tokens(tokenizer, [r.caption for r in requests])
        with common.fast():
            loss = loss_of(painter, Batch(ids, noise, bank.get(where), step, where, bank, requests))
        loss.backward()
        crew.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step(plan.lr * common.schedule(step, plan.steps, plan.warm))
        average.update(painter)
        running = loss.item() if step == start else 0.98 * running + 0.02 * loss.item()
        if progress is not None:
            progress.update()
            if step % 20 == 0:
                progress.set_postfix(loss=f"{running:.4f}", refresh=False)
            if step + 1 == plan.steps or (step + 1) % plan.save_every == 0:
                common.save_checkpoint(
                    path,
                    {
                        "model": painter.state_dict(),
                        "average": average.module.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "step": step + 1,
                        "loss": running,
                    },
                )
    return path


def load(path: Path, tokenizer: CLIPTokenizer) -> Painter:
    """The averaged painter of a stage."""
    state = common.load_checkpoint(path)
    if state is None:
        raise FileNotFoundError(path)
    painter = Painter(tokenizer)
    painter.load_state_dict(state["average"])
    return painter.eval().requires_grad_(False)


def newest(settings: Settings, *stages: str) -> Path:
    """The checkpoint of the first of these stages that has one, or else of the last."""
    paths = [settings.work / f"{stage}.pt" for stage in stages]
    return next((path for path in paths if path.exists()), paths[-1])
