"""The shipped CLIP: loads as any other, and finds pictures by words and by pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from benchmarks.arms import retrieval
from benchmarks.arms.emoji_search import Embedder
from models.recipe import clip_network
from tests.models.test_folder import CASES, MODELS, paint

# diffusers' own sampler hands torch tensors to NumPy 2 the old way; nothing of ours can avoid it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLIP = MODELS / "emoji-clip"
GROUNDS = ("blue", "yellow", "green")


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(CLIP)


@pytest.fixture(scope="module")
def gallery(pipe: Any) -> Any:
    """Each thing of the cases on three colours, uint8 (36, 64, 64, 3)."""
    texts = [f"{thing} on a {colour} background" for thing, _ in CASES for colour in GROUNDS]
    return (paint(pipe, texts, list(range(len(texts)))) * 255).round().astype(np.uint8)


def test_the_folder_is_small_and_complete() -> None:
    files = [path for path in CLIP.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12 * 2**20
    assert {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "README.md",
    } <= {path.name for path in files}


def test_it_tells_which_text_a_picture_of_the_student_fits(pipe: Any) -> None:
    texts = [f"{thing} on a {colour} background" for thing, colour in CASES]
    pictures = torch.from_numpy(paint(pipe, texts, list(range(len(texts)))))
    model = CLIPModel.from_pretrained(Path(CLIP), local_files_only=True).float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(CLIP)
    ids = tokenizer(
        texts, padding="max_length", max_length=20, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        scores = model(input_ids=ids, pixel_values=pictures.permute(0, 3, 1, 2) * 2 - 1).logits_per_image
    right = (scores.argmax(1) == torch.arange(len(texts))).sum().item()
    assert right >= len(texts) - 1


@pytest.mark.parametrize(
    "form", ["{}", "a {}", "my {} please", "A PICTURE OF THE {}", "a grumpy {} beneath a bridge"]
)
def test_a_few_words_find_every_picture_of_a_thing(embedder: Embedder, gallery: Any, form: str) -> None:
    """Without its colour, and in words that no caption has."""
    bare = [thing.removeprefix("a ") for thing, _ in CASES]
    found = retrieval.nearest(
        embedder.texts([form.format(thing) for thing in bare]), embedder.images(gallery), 3
    )
    right = np.arange(len(gallery))[None] // len(GROUNDS) == np.arange(len(CASES))[:, None]
    assert retrieval.precision(found, right).mean() >= 0.9


def test_a_colour_narrows_what_is_found(embedder: Embedder, gallery: Any) -> None:
    texts = [f"{thing} on a {colour} background" for thing, _ in CASES for colour in GROUNDS]
    found = retrieval.nearest(embedder.texts(texts), embedder.images(gallery), 1)[:, 0]
    assert (found == np.arange(len(texts))).mean() >= 0.9


def test_an_altered_picture_finds_itself(embedder: Embedder, pipe: Any) -> None:
    """Among other seeds of the same prompts."""
    texts = [f"{thing} on a {colour} background" for thing, colour in CASES for _ in range(4)]
    pictures = (paint(pipe, texts, list(range(len(texts)))) * 255).round().astype(np.uint8)
    vectors = embedder.images(pictures)
    for name, way in retrieval.WAYS.items():
        found = retrieval.nearest(embedder.images([way(each) for each in pictures]), vectors, 1)[:, 0]
        right = retrieval.finds_itself(found, np.arange(len(pictures)), pictures)
        assert right.mean() >= 0.9, name


def test_embedding_a_picture_costs_little(embedder: Embedder) -> None:
    assert clip_network.vision_flop(embedder.model.config) <= 0.15e9


def test_texts_may_be_longer_than_captions_and_pictures_larger(embedder: Embedder) -> None:
    assert embedder.words.model_max_length == embedder.model.config.text_config.max_position_embeddings
    assert embedder.words.model_max_length >= 40
    long = embedder.texts(["a rocket " + "and so on " * 200, ""])
    assert np.isfinite(long).all()
    processor = CLIPImageProcessor.from_pretrained(CLIP)
    seen = processor(images=np.zeros((100, 120, 3), np.uint8), return_tensors="pt").pixel_values
    assert seen.shape == (1, 3, 64, 64)
    assert float(seen.max()) == -1.0
