"""The stage of free captions: it begins from the shipped folder, and trains the text encoder alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from models.recipe import data, free_text, painter, shipped
from models.recipe.common import Settings
from models.recipe.concepts import concept_table

# diffusers' own sampler hands torch tensors to NumPy 2 the old way; nothing of ours can avoid it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MODELS = Path(__file__).parents[2] / "models"
EMOJI = data.EmojiSet(
    tuple(data.Concept(name, f"{i:x}", ()) for i, (_, name) in enumerate(concept_table())), np.zeros(0)
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("recipe")
    made = Settings(folder, folder / "out", quick=True, steps=2)
    shipped.unpack(made, MODELS)
    return made


def test_the_shipped_weights_are_a_checkpoint_to_begin_from(settings: Settings) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(settings.work / "tokenizer")
    model = painter.load(settings.work / "distil.pt", tokenizer)
    files = load_file(MODELS / "emoji-turbo" / "unet" / "diffusion_pytorch_model.safetensors")
    weights = model.unet.state_dict()
    assert set(files) == set(weights)
    assert all(torch.equal(value.float(), weights[name]) for name, value in files.items())
    assert painter.scaling_factor(settings, EMOJI) == pytest.approx(1.3558, abs=1e-4)


def test_the_stage_changes_the_text_encoder_and_nothing_else(settings: Settings) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(settings.work / "tokenizer")
    before = painter.load(settings.work / "distil.pt", tokenizer).state_dict()
    after = painter.load(free_text.train(settings, EMOJI), tokenizer).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("encoder.") for name in changed)


def test_readings_are_what_the_unet_takes_from_the_words(settings: Settings) -> None:
    """A cross-attention's own output, for its own queries, is what is compared."""
    tokenizer = CLIPTokenizer.from_pretrained(settings.work / "tokenizer")
    model = painter.load(settings.work / "distil.pt", tokenizer)
    layer = next(m for name, m in model.unet.named_modules() if name.endswith("attn2"))
    words, hidden = torch.randn(3, 20, 128), torch.randn(3, 16, layer.to_q.in_features)
    with torch.no_grad():
        ours = free_text._fetch(layer, layer.to_q(hidden), words)
        theirs = layer(hidden, encoder_hidden_states=words)
    assert torch.allclose(ours, theirs, atol=1e-5)
