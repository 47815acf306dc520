"""The real engine, in this process: what it says of its model, and what it makes of results that are no pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from contracts.engine import BatchKey, ImageFault, ImageTask, Pixels
from contracts.errors import OutOfMemory
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from worker.engine.diffusers import DiffusersEngine
from worker.engine.profiles import DIFFUSION, TURBO, profile_of

# Of diffusers about itself; nothing of ours can avoid them.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

MODELS = Path(__file__).parents[2] / "models"
KEY = BatchKey("emoji-turbo", 64, 64, 1, 0.0)


@pytest.fixture(scope="module")
def loaded() -> tuple[DiffusersEngine, ModelSpec]:
    settings = WorkerSettings(model=str(MODELS / "emoji-turbo"), device="cpu", max_batch=4)
    engine = DiffusersEngine(settings, "emoji-turbo")
    return engine, engine.load()


def test_the_specification_is_read_off_the_model(loaded: tuple[DiffusersEngine, ModelSpec]) -> None:
    spec = loaded[1]
    assert (spec.default_width, spec.size_multiple, spec.min_size, spec.max_size) == (64, 16, 32, 96)
    assert (spec.default_steps, spec.default_guidance_scale, spec.dtype) == (1, 0.0, "float32")
    assert (spec.max_prompt_tokens, spec.max_batch, len(spec.revision)) == (20, 4, 16)
    other = DiffusersEngine(
        WorkerSettings(model=str(MODELS / "emoji-base"), device="cpu"), "emoji-base"
    ).load()
    assert other.revision != spec.revision
    assert (other.default_steps, other.default_guidance_scale) == (25, 1.5)


def test_pictures_warnings_and_guidance(loaded: tuple[DiffusersEngine, ModelSpec]) -> None:
    engine = loaded[0]
    tasks = [ImageTask("a rocket on a blue background", "", 1), ImageTask("a rocket " * 20, "", 2)]
    first, long = engine.generate(KEY, tasks)
    assert isinstance(first, Pixels)
    assert isinstance(long, Pixels)
    assert (first.width, first.height, len(first.rgb), first.warnings) == (64, 64, 64 * 64 * 3, ())
    assert "the model read the first 20" in long.warnings[0]
    corner = np.frombuffer(first.rgb, np.uint8).reshape(64, 64, 3)[2, 2].astype(int)
    assert corner[2] > corner[0] + 60, "blue is the last of red, green, blue"
    guided = BatchKey("emoji-turbo", 96, 64, 2, 2.0)
    (wide,) = engine.generate(guided, [ImageTask("a rocket", "red " * 40, 1)])
    assert isinstance(wide, Pixels)
    assert (wide.width, wide.height) == (96, 64)
    assert wide.warnings[0].startswith("negative_prompt has")


@pytest.mark.parametrize(
    ("value", "says"),
    [(float("nan"), "no numbers"), (float("inf"), "no numbers"), (0.0, "black"), (0.004, "black")],
)
def test_what_is_no_picture_is_a_fault_of_its_image_alone(
    loaded: tuple[DiffusersEngine, ModelSpec], monkeypatch: pytest.MonkeyPatch, value: float, says: str
) -> None:
    images = torch.stack([torch.rand(3, 64, 64), torch.full((3, 64, 64), value)])
    tokenizer = loaded[0]._pipeline.tokenizer

    class Broken:
        def __init__(self) -> None:
            self.tokenizer = tokenizer

        def __call__(self, **_: Any) -> Any:
            return SimpleNamespace(images=images)

    monkeypatch.setattr(loaded[0], "_pipeline", Broken())
    good, bad = loaded[0].generate(KEY, [ImageTask("a", "", 1), ImageTask("b", "", 2)])
    assert isinstance(good, Pixels)
    assert isinstance(bad, ImageFault)
    assert bad.code == "invalid_output"
    assert says in bad.message


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_is_told_apart(
    loaded: tuple[DiffusersEngine, ModelSpec], monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def full(**_: Any) -> Any:
        raise error

    monkeypatch.setattr(loaded[0], "_pipeline", full)
    with pytest.raises(OutOfMemory, match="1 images of 64 x 64"):
        loaded[0].generate(KEY, [ImageTask("a", "", 1)])


def test_profiles_by_name() -> None:
    assert profile_of("sd-turbo") == TURBO
    assert profile_of("stable-diffusion-v1-5") == DIFFUSION
    assert profile_of("emoji-base").steps == 25
