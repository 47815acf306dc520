"""The recipe's parts that need neither the network nor trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.recipe import captions, common, data, muon, networks
from models.recipe.concepts import concept_table

# diffusers' own sampler hands torch tensors to NumPy 2 the old way; nothing of ours can avoid it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CONCEPTS = (data.Concept("apple", "1f34e", ("fruit",)), data.Concept("cat", "1f431", ()))


def test_the_table_has_enough_distinct_concepts() -> None:
    names = [name for _, name in concept_table()]
    assert len(names) >= 300
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "word", ["sad", "happy", "shiny", "silver", "bamboo", "lazy", "eight", "big", "running"]
)
def test_a_word_of_mood_material_size_or_count_is_no_name_of_a_thing(word: str) -> None:
    emojis = [{"label": "droplet", "hexcode": "1F4A7", "tags": ["drop", word]}]
    assert [concept.synonyms for concept in data.choose_concepts(emojis)] == [("drop",)]


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (("cat", "red"), "a cat on a red background"),
        (("owl", "orange"), "an owl on an orange background"),
        (("cat", "red", "noto", "small"), "a small cat on a red background, noto style"),
        (("cat", "red", None, "left"), "a cat on a red background, on the left"),
        (("owl",), "an owl"),
    ],
)
def test_captions_read_as_english(asked: tuple[Any, ...], text: str) -> None:
    assert captions.write(*asked) == text


def test_training_never_draws_a_held_out_combination() -> None:
    composer = captions.Composer(CONCEPTS)
    rng = np.random.default_rng(0)
    requests = composer.batch(rng, 400, 0)
    assert any("background" not in request.caption and " on " not in request.caption for request in requests)
    _, _, _, chosen = captions.settle(requests, torch.randn(400, 4, 16, 16))
    for request, colour in zip(requests, chosen, strict=True):
        assert not data.held_out(CONCEPTS[request.concept].name, composer.colours[colour])


def test_noise_chooses_what_the_caption_leaves_open() -> None:
    noise = torch.randn(2000, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    styles, layouts = captions.open_attributes(noise)
    assert abs(styles.mean() - 0.5) < 0.05
    shares = np.bincount(layouts, minlength=len(data.LAYOUTS)) / 2000
    assert np.abs(shares - [layout.share for layout in data.LAYOUTS]).max() < 0.04
    fixed = captions.Request(0, 1, 1, 2, "")
    assert [a[0] for a in captions.settle([fixed], noise[:1])] == [0, 1, 2, 1]


def test_training_step_is_the_samplers_step() -> None:
    levels = networks.sigmas()
    sampler = networks.scheduler()
    sampler.set_timesteps(1)
    assert sampler.sigmas[0] == pytest.approx(float(levels[-1]), rel=1e-4)
    unet = networks.unet().eval()
    words, noise = torch.randn(1, common.TOKENS, networks.WIDTH), torch.randn(1, 4, 16, 16)
    start = noise * sampler.init_noise_sigma
    with torch.no_grad():
        ours = networks.denoise(unet, start, torch.tensor([999]), words, levels)
        seen = unet(sampler.scale_model_input(start, sampler.timesteps[0]), 999, words).sample
    theirs = sampler.step(seen, sampler.timesteps[0], start).prev_sample
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_orthogonalising_evens_out_the_singular_values() -> None:
    values = torch.linalg.svdvals(muon.orthogonalise(torch.randn(8, 40)))
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.4


def test_a_checkpoint_comes_back_and_a_missing_one_is_nothing(tmp_path: Path) -> None:
    assert common.load_checkpoint(tmp_path / "none.pt") is None
    common.save_checkpoint(tmp_path / "some.pt", {"step": 3})
    assert common.load_checkpoint(tmp_path / "some.pt") == {"step": 3}
