"""What `DARKROOM_MODEL` names: an embedded model, a folder, or a repository of the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from contracts.errors import SettingsError

PREFIX: Final = "models/"
EMBEDDED: Final = Path(__file__).parents[1] / "models"
"""Beside our packages, wherever the process was started."""
_OF_TWO_PARTS: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def local_folder(model: str, setting: str = "DARKROOM_MODEL=") -> Path | None:
    """The folder that `model` names; None for a hub id, `owner/name`.

    A folder here comes first. `models/NAME` is else an embedded model, and never a hub id. Raises `SettingsError` for what is none of
    these, named after the `setting`.
    """
    here = Path(model)
    if here.is_dir():
        return here
    if model.startswith(PREFIX):
        embedded = EMBEDDED / model.removeprefix(PREFIX)
        if _OF_TWO_PARTS.fullmatch(model) and embedded.is_dir():
            return embedded
        raise SettingsError(f"{setting}{model} is no folder here, and no embedded model: there {_names()}.")
    if _OF_TWO_PARTS.fullmatch(model):
        return None
    raise SettingsError(f"{setting}{model} is no folder here, and no hub id (owner/name).")


def _names() -> str:
    found = sorted(f"{PREFIX}{path.parent.name}" for path in EMBEDDED.glob("*/model_index.json"))
    return f"are {' and '.join(found)}" if found else "is none in this installation"
