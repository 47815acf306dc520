"""What `darkroom up` leaves in its folder, so that other commands find the platform: its first key, where it is, how it is set up."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TextIO

from contracts.settings import BackendSettings
from contracts.tenancy import new_token

FOLDER: Final = Path(".cache/platform")
"""Of a platform that is started here, unless it is told another one."""
KEY_FILE: Final = "admin.key"
RECORD_FILE: Final = "platform.json"
LOCK_FILE: Final = "lock"
ELSEWHERE: Final = ("DARKROOM_REDIS_URL", "DARKROOM_BROKER_URL")
"""Whoever sets one of these means those services, and no platform in a folder."""


class AlreadyRunning(Exception):
    """Another platform uses the folder."""


@dataclass(frozen=True, slots=True)
class Record:
    """A running platform: the URL of its API, and the variables of `BackendSettings`."""

    url: str
    environ: dict[str, str]


def lock(folder: Path) -> TextIO:
    """The folder's lock, held until it is closed. Raises `AlreadyRunning`, and `OSError` for a folder that cannot be used."""
    folder.mkdir(parents=True, exist_ok=True)
    held = (folder / LOCK_FILE).open("a+")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise AlreadyRunning(f"A platform is running in {folder} already.") from None
    return held


def write(folder: Path, url: str, environ: Mapping[str, str]) -> None:
    """For its owner alone: the addresses of services may hold passwords. Raises `SettingsError`."""
    record = Record(url, BackendSettings.from_env(environ).to_env())
    path = folder / RECORD_FILE
    path.unlink(missing_ok=True)
    with open(path, "x", encoding="utf-8", opener=_private) as made:
        json.dump(asdict(record), made, indent=1)


def erase(folder: Path) -> None:
    (folder / RECORD_FILE).unlink(missing_ok=True)


def running(folder: Path = FOLDER) -> Record | None:
    """The platform that runs in `folder` now; None where there is none, or only what a killed one has left."""
    try:
        with (folder / LOCK_FILE).open("r+") as probe:
            fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        pass
    except OSError:
        return None
    try:
        return Record(**json.loads((folder / RECORD_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        # It is starting.
        return None


def environment(folder: Path, environ: Mapping[str, str]) -> tuple[Record | None, dict[str, str]]:
    """(the platform in `folder` that is meant, the variables to ask it by). None where `environ` names services."""
    found = None if any(environ.get(name) for name in ELSEWHERE) else running(folder)
    given = {name: value for name, value in environ.items() if value}
    return found, {**(found.environ if found else {}), **given}


def admin_key(folder: Path) -> str:
    """The first key of the platform, made once and readable by its owner alone."""
    file = folder / KEY_FILE
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        token = new_token()
        with open(file, "x", encoding="ascii", opener=_private) as made:
            made.write(token + "\n")
        return token


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
