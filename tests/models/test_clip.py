"""The shipped CLIP: loads as any other, and knows which text a picture fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer

from tests.models.test_folder import CASES, MODELS, paint

# diffusers' own sampler hands torch tensors to NumPy 2 the old way; nothing of ours can avoid it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLIP = MODELS / "emoji-clip"


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
