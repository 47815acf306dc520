"""`python -m worker.download MODEL --into FOLDER`: puts a model in its place, whole or not at all, and pinned.

MODEL is a folder, or a hub id whose `--revision` (a commit) is loaded. The files are compared with `--sha256`, as `--digest FOLDER` prints
it, before the folder appears under its name; one that is there already is only checked. With `--wait SECONDS` nothing is fetched: it
waits until another process has done so. What is there already is hashed again in either case: others may write to the volume, and
disks fail.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from contracts.errors import SettingsError
from contracts.model_source import local_folder

POLL_S: Final = 1.0
DONE: Final = ".complete"
"""Written last, and holds the digest."""
WANTED: Final = ("*.json", "*.txt", "*.safetensors", "*.model")
"""What a pipeline loads. Pickled weights are left out: loading them can run code."""


class FetchError(Exception):
    """The model cannot be had as it is wanted; the message says why."""


def digest(folder: Path) -> str:
    """SHA-256 over the names and the SHA-256 of all files, in order of their names, as 64 hex digits."""
    whole = hashlib.sha256()
    for path in _files(folder):
        with path.open("rb") as file:
            each = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{each}  {path.relative_to(folder).as_posix()}\n".encode())
    return whole.hexdigest()


def fetch(model: str, revision: str | None, sha256: str | None, into: Path) -> str:
    """The digest of `into`, which holds the model afterwards. Raises `FetchError`, and leaves nothing half done."""
    if complete(into) is not None:
        return _again(into, sha256)
    into.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place: a rename is all or nothing within one file system.
    scratch = Path(tempfile.mkdtemp(dir=into.parent, prefix=f".{into.name}-"))
    try:
        _load(model, revision, scratch)
        found = _checked(digest(scratch), sha256)
        (scratch / DONE).write_text(found)
        scratch.chmod(0o755)
        try:
            scratch.rename(into)
        except OSError:
            # Another has been quicker; then its work must do.
            if complete(into) is None:
                raise FetchError(f"{into} is there, but was not put there by a fetch.") from None
            found = _again(into, sha256)
        return found
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def wait(into: Path, sha256: str | None, seconds: float) -> str:
    """The digest of `into`, once another process has fetched it. Raises `FetchError` when the time is over."""
    until = time.monotonic() + seconds
    while complete(into) is None:
        if time.monotonic() > until:
            raise FetchError(f"{into} has not appeared within {seconds:g} s.")
        time.sleep(POLL_S)
    return _again(into, sha256)


def complete(into: Path) -> str | None:
    """The digest that a finished fetch has left, if there is one."""
    try:
        return (into / DONE).read_text()
    except OSError:
        return None


def _load(model: str, revision: str | None, into: Path) -> None:
    try:
        source = local_folder(model, "")
    except SettingsError as error:
        raise FetchError(str(error)) from error
    if source is not None:
        for path in _files(source):
            target = into / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        return
    if revision is None:
        raise FetchError(f"{model} is a hub id: name the --revision, a commit, so that it is pinned.")
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(model, revision=revision, local_dir=into, allow_patterns=list(WANTED))
    except Exception as error:  # of its own, of its transport, of the file system
        raise FetchError(f"{model} at {revision}: {type(error).__name__}: {error}") from error
    shutil.rmtree(into / ".cache", ignore_errors=True)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            yield path


def _again(into: Path, wanted: str | None) -> str:
    """The digest of the files as they are now. Raises `FetchError` where it is not what their fetch has left."""
    found = digest(into)
    if found != complete(into):
        raise FetchError(
            f"The files in {into} are no longer what was fetched: their digest is {found}. "
            "Delete the folder, and have it fetched again."
        )
    return _checked(found, wanted)


def _checked(found: str, wanted: str | None) -> str:
    if wanted is not None and found != wanted:
        raise FetchError(f"The files are not the ones wanted: their digest is {found}, not {wanted}.")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worker.download", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("model", nargs="?", help="a folder or a hub id")
    parser.add_argument("--into", type=Path, help="where it goes")
    parser.add_argument("--revision", help="the commit of a hub id")
    parser.add_argument("--sha256", help="what --digest must say of it")
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="wait for another process to fetch it")
    parser.add_argument("--digest", type=Path, metavar="FOLDER", help="print a folder's digest")
    given = parser.parse_args(arguments)
    try:
        if given.digest is not None:
            found = digest(given.digest)
        elif given.model is None or given.into is None:
            parser.error("MODEL and --into are needed")
        elif given.wait is not None:
            found = wait(given.into, given.sha256, given.wait)
        else:
            found = fetch(given.model, given.revision, given.sha256, given.into)
    except (FetchError, OSError) as error:
        sys.stderr.write(f"darkroom fetch: {error}\n")
        return 1
    sys.stdout.write(f"{found}\n")
    return 0


if __name__ == "__main__":
    # A file mode of the pod's user alone would hide the model from pods of another.
    os.umask(0o022)
    sys.exit(main())
