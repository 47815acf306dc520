"""The files of `darkroom up` in its folder: a lock, the first API key, and a record of URL and settings.

Other commands read them to find the running platform.
"""

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
"""The default folder of an embedded platform, relative to the current folder."""
KEY_FILE: Final = "admin.key"
RECORD_FILE: Final = "platform.json"
LOCK_FILE: Final = "lock"
ELSEWHERE: Final = ("DARKROOM_REDIS_URL", "DARKROOM_BROKER_URL")
"""If one of these variables is set, commands use those services and not the embedded platform."""


class AlreadyRunning(Exception):
    """Another platform uses the folder."""


@dataclass(frozen=True, slots=True)
class Record:
    """A running platform: the URL of its API, and the environment variables of `BackendSettings`."""

    url: str
    environ: dict[str, str]


def lock(folder: Path) -> TextIO:
    """Takes the folder's lock, and returns it; closing it releases it. Creates the folder.

    Raises `AlreadyRunning`, and `OSError` for a folder that cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock_file = (folder / LOCK_FILE).open("a+")
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock_file.close()
        raise AlreadyRunning(f"A platform is running in {folder} already.") from None
    return lock_file


def write(folder: Path, url: str, environ: Mapping[str, str]) -> None:
    """Writes the record of a platform.

    Only its owner can read it, because URLs may hold passwords. Raises `SettingsError`.
    """
    record = Record(url, BackendSettings.from_env(environ).to_env())
    path = folder / RECORD_FILE
    path.unlink(missing_ok=True)
    with open(path, "x", encoding="utf-8", opener=_private) as file:
        json.dump(asdict(record), file, indent=1)


def erase(folder: Path) -> None:
    """Deletes the record of a platform."""
    (folder / RECORD_FILE).unlink(missing_ok=True)


def running(folder: Path = FOLDER) -> Record | None:
    """Returns the record of the platform that runs in `folder`; None if none runs there, or it is still starting."""
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
        # The platform is still starting.
        return None


def environment(folder: Path, environ: Mapping[str, str]) -> tuple[Record | None, dict[str, str]]:
    """Returns the platform in `folder` and the variables for its services.

    The platform is None if none runs there, or if `environ` names services. Variables in `environ`
    take precedence.
    """
    platform = None if any(environ.get(name) for name in ELSEWHERE) else running(folder)
    variables = {name: value for name, value in environ.items() if value}
    return platform, {**(platform.environ if platform else {}), **variables}


def admin_key(folder: Path) -> str:
    """Returns the first API key of the platform. Creates it once, in a file that only its owner can read."""
    path = folder / KEY_FILE
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        token = new_token()
        with open(path, "x", encoding="ascii", opener=_private) as file:
            file.write(token + "\n")
        return token


def stored_key(folder: Path) -> str | None:
    """Returns the first API key of the platform in `folder`; None if there is none to be read."""
    try:
        return (folder / KEY_FILE).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
