"""The stage of few steps: it trains at the states that the sampler meets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.recipe import few_steps, networks, painter, shipped
from models.recipe.common import Settings, load_checkpoint

# diffusers' own sampler hands torch tensors to NumPy 2 the old way; nothing of ours can avoid it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MODELS = Path(__file__).parents[2] / "models"


class Shrinking(torch.nn.Module):
    """A painter that sees a tenth of what it is given, and remembers what that was."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[tuple[int, torch.Tensor]] = []

    def forward(self, ids: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor, levels: Any) -> Any:
        self.met.append((int(timesteps[0]), noisy))
        return noisy / 10


def bank() -> painter.Bank:
    rng = np.random.default_rng(0)
    return painter.Bank(rng.normal(0, 0.5, (5, 2, 4, 10, 4, 4, 4)).astype(np.float16), 2.0)


def batch(count: int) -> painter.Batch:
    latents = bank()
    where = tuple(np.arange(count) % size for size in latents.latents.shape[:4])
    noise = torch.randn(count, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    ids = torch.zeros(count, 20, dtype=torch.long)
    return painter.Batch(ids, noise, latents.get(where), 0, where, latents, [])


@pytest.mark.parametrize("count", range(1, 9))
def test_a_walk_visits_the_samplers_timesteps(count: int) -> None:
    sampler = networks.scheduler()
    sampler.set_timesteps(count)
    assert few_steps.trailing(count) == sampler.timesteps.tolist()


def test_images_begin_from_the_levels_of_all_walks() -> None:
    assert set(few_steps.trailing(8)[1:]) <= set(few_steps.VISITED)
    assert max(few_steps.VISITED) < 999


@pytest.mark.parametrize("count", sorted(set(few_steps.COUNTS)))
def test_the_students_walk_is_the_samplers(count: int) -> None:
    model, one = Shrinking(), batch(12)
    few_steps.chain_loss(model, one, count, one.clean)  # type: ignore[arg-type]
    sampler = networks.scheduler()
    sampler.set_timesteps(count)
    levels = networks.sigmas()
    sample = one.noise * sampler.init_noise_sigma
    assert [t for t, _ in model.met] == few_steps.trailing(count)
    for timestep, (_, met) in zip(sampler.timesteps, model.met, strict=True):
        assert torch.allclose(met, sample[: len(met)], atol=2e-3)
        sigma = levels[int(timestep)]
        # The v-prediction whose clean latents are a tenth of the sample.
        seen = (sample / (sigma**2 + 1) - sample / 10) * (sigma**2 + 1).sqrt() / sigma
        sample = sampler.step(seen, timestep, sample).prev_sample
    assert sum(len(met) for _, met in model.met[1:]) <= len(one.clean)


def test_images_of_other_things_keep_style_and_place() -> None:
    one = batch(20)
    seen = few_steps.others(one, 20)
    for i in range(20):
        concept, style, layout, colour = (int(index[i]) for index in one.where)
        at = one.bank.latents[:, style, layout].reshape(-1, 4, 4, 4).astype(np.float32) * 2.0
        same = np.abs(at - seen[i].numpy()).max((1, 2, 3)) < 1e-3
        assert same.any()
        assert not same[concept * 10 + colour]


def test_latents_as_encoded_pass_the_decoders_curve_back() -> None:
    latents = bank().get(tuple(np.zeros((4, 1), int)))
    raw = bank().as_encoded(latents) / 2.0
    assert torch.allclose(torch.tanh(raw / 3) * 3 * 2.0, latents, atol=1e-4)


def test_the_stage_begins_from_the_shipped_folders(tmp_path: Path) -> None:
    settings = Settings(tmp_path, tmp_path / "out")
    shipped.unpack(settings, MODELS)
    state = load_checkpoint(settings.work / "distil.pt")
    assert state is not None
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(settings.work / "tokenizer")
    model = painter.load(settings.work / "distil.pt", tokenizer)
    saved = dict(model.named_parameters())
    assert {name: p.shape for name, p in saved.items()} == {
        name: value.shape for name, value in state["average"].items() if name in saved
    }
    assert (settings.work / "autoencoder.pt").exists()
