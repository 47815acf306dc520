"""The shipped student, opened once."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="session")
def pipe() -> Any:
    """`emoji-turbo` through the stock pipeline, offline, on one thread."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        # diffusers deprecates parts of itself; no word of it concerns our folder.
        warnings.simplefilter("ignore", FutureWarning)
        from diffusers import StableDiffusionPipeline

        loaded = StableDiffusionPipeline.from_pretrained(MODELS / "emoji-turbo", local_files_only=True)
    loaded.to(torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded
