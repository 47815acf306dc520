"""The stage of few steps: it trains at the states that the sampler meets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from models.recipe import autoencoder, data, few_steps, networks, painter, shipped
from models.recipe.common import Settings

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


def test_the_first_step_learns_from_what_it_is_told_and_the_others_from_the_truth() -> None:
    one, sigma = batch(12), networks.sigmas()[-1]
    seen = one.noise * sigma / 10
    losses = [few_steps.chain_loss(Shrinking(), one, 2, seen + off) for off in (0.0, 1.0)]  # type: ignore[arg-type]
    assert losses[1] - losses[0] == pytest.approx(few_steps.FIRST * float(1 + 1 / sigma**2), rel=1e-3)
    assert losses[0] > 0


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


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("recipe")
    made = Settings(folder, folder / "out")
    shipped.unpack(made, MODELS)
    return made


def test_the_stage_begins_from_the_teachers_unet_and_the_students_words(settings: Settings) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(settings.work / "tokenizer")
    begun = few_steps.beginning(settings, tokenizer)
    parts = {"distil": begun.encoder, "teacher": begun.unet}
    for stage, part in parts.items():
        weights = painter.load(settings.work / f"{stage}.pt", tokenizer).state_dict()
        name = "encoder" if stage == "distil" else "unet"
        assert all(torch.equal(value, weights[f"{name}.{key}"]) for key, value in part.state_dict().items())


def test_the_last_stage_that_is_trained_is_the_student(settings: Settings) -> None:
    stages = ("free_text", "few_steps", "distil")
    assert painter.newest(settings, *stages).stem == "distil"
    (settings.work / "few_steps.pt").touch()
    assert painter.newest(settings, *stages).stem == "few_steps"


def test_a_bank_of_the_shipped_autoencoder_encodes_what_is_asked_for(settings: Settings) -> None:
    sprites = np.random.default_rng(0).integers(0, 255, (2, 2, 192, 192, 4), np.uint8)
    emoji = data.EmojiSet((data.Concept("a", "1", ()), data.Concept("b", "2", ())), sprites)
    usual, wide = painter.banks(settings, emoji)
    one = (np.array([1, 0, 1]), np.array([0, 1, 0]), np.array([2, 3, 2]), np.array([5, 0, 5]))
    latents = usual.get(one)
    drawn = data.over(data.place(sprites[1, 0], data.LAYOUTS[2]), np.array(5))
    vae = autoencoder.load(settings.work / "autoencoder.pt")
    told = autoencoder.encode(vae, torch.from_numpy(drawn)[None].permute(0, 3, 1, 2).mul(2).sub(1))
    assert torch.allclose(latents[0], told[0].float() * usual.scaling_factor, atol=0.1)
    assert torch.equal(latents[0], latents[2])
    assert not torch.equal(latents[0], latents[1])
    assert wide.get(one).shape == (3, 4, 24, 24)
