"""A CLIP that cannot be used stops the worker, with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from contracts.engine import ImageTask
from contracts.settings import WorkerSettings
from tests.worker.drawing import MODELS
from worker.engine import clip_source
from worker.engine.device import Device
from worker.engine.diffusers import DiffusersEngine
from worker.engine.errors import ModelLoadError, ModelLoadRetryable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

EMOJI_CLIP = MODELS / "emoji-clip"
CPU = Device("cpu")
EQUAL = 0.9999
"""The cosine from which on two embeddings count as one."""
TASKS = [
    ImageTask(f"a {what} on a plain background", "", n) for n, what in enumerate(("cat", "rocket", "cherry"))
]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A copy of emoji-clip, to break."""
    return Path(shutil.copytree(EMOJI_CLIP, tmp_path / "emoji-clip"))


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without_projection(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: each for name, each in weights.items() if name != "visual_projection.weight"},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "no JSON"),
        (lambda folder: edited(folder / "config.json", model_type="llama"), "is a llama; .* clip and siglip"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "DARKROOM_CLIP=.*cannot be loaded"),
        (
            lambda folder: edited(folder / "preprocessor_config.json", resample=1),
            "method 1, which torch lacks",
        ),
        (
            lambda folder: edited(folder / "preprocessor_config.json", crop_size={"height": 32, "width": 32}),
            "does not embed its own input",
        ),
        (
            lambda folder: edited(folder / "preprocessor_config.json", crop_size={"height": 99, "width": 99}),
            "smaller than its crop",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-100]
            ),
            "was cut short",
        ),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "is a pickle"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (
            lambda folder: edited(folder / "config.json", projection_dim=64),
            r"1 are missing or .* visual_projection",
        ),
        (without_projection, r"1 are missing or of another shape, visual_projection\.weight first"),
    ],
    ids=[
        "no config",
        "config no json",
        "another kind",
        "no preprocessing",
        "unknown filter",
        "another size",
        "crop too large",
        "cut short",
        "pickle",
        "no weights",
        "another shape",
        "weights missing",
    ],
)
def test_a_broken_model_stops_the_worker_with_the_reason(
    broken: Path, breaks: Callable[[Path], object], says: str
) -> None:
    breaks(broken)
    settings = WorkerSettings(model=str(MODELS / "emoji-turbo"), clip=str(broken), device="cpu")
    with pytest.raises(ModelLoadError, match=says) as refused:
        DiffusersEngine(settings, "emoji-turbo").load()
    assert not isinstance(refused.value, ModelLoadRetryable)
    assert str(broken) in str(refused.value)


@pytest.mark.parametrize(
    ("clip", "says"),
    [
        (
            "models/none",
            r"DARKROOM_CLIP=models/none is no folder here, and no embedded model: there is models/emoji-clip",
        ),
        ("/nowhere/at/all", "is no folder here, and no hub id"),
        ("models/emoji-clip@main", "a folder has no revisions"),
    ],
)
def test_a_name_of_nothing_is_said(clip: str, says: str) -> None:
    with pytest.raises(ModelLoadError, match=says):
        clip_source.read(clip)


def test_a_folder_that_moves_is_the_same_model(broken: Path) -> None:
    before = clip_source.read(str(EMOJI_CLIP)).identity
    assert clip_source.read(str(broken)).identity == before
    edited(broken / "config.json", logit_scale_init_value=2.0)
    assert clip_source.read(str(broken)).identity != before
