"""What a setting of a model may name: an embedded model, a folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from contracts.errors import SettingsError

PREFIX: Final = "models/"
EMBEDDED: Final = Path(__file__).parents[1] / "models"
"""The folder of the embedded models, beside our packages, independent of the working directory."""
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def local_folder(
    model: str, setting: str = "DARKROOM_MODEL=", marker: str = "model_index.json"
) -> Path | None:
    """The folder that `model` names; None for a hub id, `owner/name`.

    A folder relative to the working directory comes first. Otherwise `models/NAME` is an embedded model, never a
    hub id. Raises `SettingsError`, which starts with `setting`, for anything else. It lists the embedded models
    that have the file `marker`.
    """
    here = Path(model)
    if here.is_dir():
        return here
    if model.startswith(PREFIX):
        embedded = EMBEDDED / model.removeprefix(PREFIX)
        if _HUB_ID.fullmatch(model) and embedded.is_dir():
            return embedded
        raise SettingsError(
            f"{setting}{model} is no folder here, and no embedded model: there {_names(marker)}."
        )
    if _HUB_ID.fullmatch(model):
        return None
    raise SettingsError(f"{setting}{model} is no folder here, and no hub id (owner/name).")


def name_of(source: str) -> str:
    """The name of a model: the last part of its folder or hub id."""
    return source.rstrip("/").rpartition("/")[2]


def digest(folder: Path) -> str:
    """A digest of all files in the folder that are loaded, as 16 hex digits: the revision of its weights."""
    sha256 = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors", ".txt"):
            sha256.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                sha256.update(hashlib.file_digest(file, "sha256").digest())
    return sha256.hexdigest()[:16]


def _names(marker: str) -> str:
    names = sorted(f"{PREFIX}{path.parent.name}" for path in EMBEDDED.glob(f"*/{marker}"))
    if not names:
        return "is none in this installation"
    return f"{'is' if len(names) == 1 else 'are'} {' and '.join(names)}"
