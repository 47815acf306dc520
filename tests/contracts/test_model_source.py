"""What DARKROOM_MODEL names, from wherever it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.errors import SettingsError
from contracts.model_source import local_folder
from contracts.settings import WorkerSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [WorkerSettings().model, "models/emoji-base"])
def test_embedded_models_are_found_outside_of_the_checkout(name: str) -> None:
    assert local_folder(name) == ROOT / name


def test_a_folder_here_comes_first(elsewhere: Path) -> None:
    (elsewhere / "models" / "emoji-turbo").mkdir(parents=True)
    assert local_folder("models/emoji-turbo") == Path("models/emoji-turbo")
    assert local_folder(str(elsewhere)) == elsewhere


def test_a_hub_id_is_no_folder() -> None:
    assert local_folder("stabilityai/sd-turbo") is None


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("models/nothing", "no embedded model: there are models/emoji-base and models/emoji-turbo"),
        ("models/..", "no embedded model"),
        ("models/recipe/x", "no embedded model"),
        ("/none/there", "no hub id"),
        ("./a/b", "no hub id"),
        ("../b", "no hub id"),
        ("none", "no hub id"),
        ("a/b/c", "no hub id"),
        ("a b/c", "no hub id"),
        ("https://x/y", "no hub id"),
    ],
)
def test_what_is_neither_is_said_by_name(model: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as error:
        local_folder(model)
    assert f"DARKROOM_MODEL={model}" in str(error.value)
