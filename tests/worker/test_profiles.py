"""What a model can do: read from its folder, else from its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contracts.settings import WorkerSettings
from tests.worker.drawing import MODELS
from worker.engine.diffusers import DiffusersEngine
from worker.engine.errors import ModelLoadError
from worker.engine.profiles import DIFFUSION, TURBO, XL, profile_of

# Of diffusers about itself; nothing of ours can avoid them.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def test_profiles_by_name() -> None:
    assert profile_of("sd-turbo") == profile_of("sdxl-turbo") == TURBO
    assert profile_of("stable-diffusion-xl-base-1.0") == XL
    assert profile_of("stable-diffusion-v1-5") == DIFFUSION


def test_a_models_folder_says_what_the_model_can_do_whatever_it_is_called(tmp_path: Path) -> None:
    turbo = profile_of("a", MODELS / "emoji-turbo")
    assert (turbo.steps, turbo.max_steps, turbo.distilled, turbo.init_images) == (1, 8, True, True)
    base = profile_of("some-turbo", MODELS / "emoji-base")
    assert (base.steps, base.max_steps, base.guidance_scale, base.init_images) == (25, 100, 1.5, True)
    (tmp_path / "darkroom.json").write_text('{"max_num_inference_steps": 4}')
    assert profile_of("sd-turbo", tmp_path) == replace(TURBO, max_steps=4), "the rest is what the name says"
    assert profile_of("sd-turbo", tmp_path, max_steps=6).max_steps == 6, "the operator knows better"
    assert profile_of("sd-v1-5", max_steps=10).steps == 10


def test_a_model_that_is_named_from_another_folder_says_what_it_can_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`models/emoji-turbo` is found beside our packages, and so is what it says of itself."""
    monkeypatch.chdir(tmp_path)
    spec = DiffusersEngine(WorkerSettings(model="models/emoji-turbo", device="cpu"), "emoji-turbo").load()
    assert (spec.max_steps, spec.init_images) == (8, True)
    assert spec.description


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Invalid JSON"),
        ("[]", "object"),
        ('{"max_num_inference_steps": 0}', "max_num_inference_steps: "),
        ('{"max_steps": 4}', "max_steps: "),
        ('{"default_num_inference_steps": 9}', "above its maximum"),
        ('{"default_guidance_scale": 5}', "above its maximum"),
    ],
)
def test_a_folder_that_says_nonsense_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "darkroom.json").write_text(text)
    with pytest.raises(ModelLoadError, match=f"darkroom.json: .*{reason}"):
        profile_of("sd-turbo", tmp_path)


def test_emoji_turbo_draws_in_one_step_takes_eight_and_starts_from_pictures() -> None:
    settings = WorkerSettings(model=str(MODELS / "emoji-turbo"), device="cpu")
    spec = DiffusersEngine(settings, "any-name").load()
    assert (spec.default_steps, spec.max_steps, spec.init_images) == (1, 8, True)
    fewer = settings.model_copy(update={"max_num_inference_steps": 1})
    spec = DiffusersEngine(fewer, "any-name").load()
    assert (spec.default_steps, spec.max_steps, spec.init_images) == (1, 1, False)
