"""What `DARKROOM_MODEL` may name: an embedded model, a folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from contracts.errors import SettingsError

PREFIX: Final = "models/"
EMBEDDED: Final = Path(__file__).parents[1] / "models"
"""The folder of the embedded models, beside our packages, independent of the working directory."""
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def local_folder(model: str, setting: str = "DARKROOM_MODEL=") -> Path | None:
    """The folder that `model` names; None for a hub id, `owner/name`.

    A folder relative to the working directory comes first. Otherwise `models/NAME` is an embedded model, never a
    hub id. Raises `SettingsError`, which starts with `setting`, for anything else.
    """
    here = Path(model)
    if here.is_dir():
        return here
    if model.startswith(PREFIX):
        embedded = EMBEDDED / model.removeprefix(PREFIX)
        if _HUB_ID.fullmatch(model) and embedded.is_dir():
            return embedded
        raise SettingsError(f"{setting}{model} is no folder here, and no embedded model: there {_names()}.")
    if _HUB_ID.fullmatch(model):
        return None
    raise SettingsError(f"{setting}{model} is no folder here, and no hub id (owner/name).")


def _names() -> str:
    names = sorted(f"{PREFIX}{path.parent.name}" for path in EMBEDDED.glob("*/model_index.json"))
    return f"are {' and '.join(names)}" if names else "is none in this installation"
