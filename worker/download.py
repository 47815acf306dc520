"""`python -m worker.download MODEL --into FOLDER`: fetches a model, pinned, whole or not at all.

MODEL is a folder, or a hub id together with a `--revision` (a commit). The files are compared with
`--sha256`, which `--digest FOLDER` prints. Only then does the folder appear under its name. A
folder that is there already is only checked. With `--wait SECONDS` nothing is fetched: the command
waits until another process has fetched the model. A folder that is there already is always hashed
again, because others may write to the volume, and disks fail.
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
"""How often `wait` looks for the folder."""
DONE: Final = ".complete"
"""The file that is written last. It contains the digest."""
WANTED: Final = ("*.json", "*.txt", "*.safetensors", "*.model")
"""The files that a pipeline loads. Pickled weights are left out: loading them can run code."""


class FetchError(Exception):
    """The model cannot be fetched as asked. The message says why."""


def digest(folder: Path) -> str:
    """The digest of a folder, as 64 hex digits.

    It is the SHA-256 over the name and SHA-256 of each file, sorted by name.
    """
    whole = hashlib.sha256()
    for path in _files(folder):
        with path.open("rb") as file:
            file_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{file_sha256}  {path.relative_to(folder).as_posix()}\n".encode())
    return whole.hexdigest()


def fetch(model: str, revision: str | None, sha256: str | None, into: Path) -> str:
    """Fetch the model into the folder `into`. Answers its digest.

    Raises `FetchError` if that fails, and `OSError` of the file system. Then `into` is as it was.
    """
    if complete(into) is not None:
        return _check_again(into, sha256)
    into.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder as `into`: a rename is atomic only within one file system.
    scratch = Path(tempfile.mkdtemp(dir=into.parent, prefix=f".{into.name}-"))
    try:
        _load(model, revision, scratch)
        actual = _checked(digest(scratch), sha256)
        (scratch / DONE).write_text(actual)
        scratch.chmod(0o755)
        try:
            scratch.rename(into)
        except OSError:
            # Another process has fetched it meanwhile. Its folder is used if it is complete.
            if complete(into) is None:
                raise FetchError(f"{into} is there, but was not put there by a fetch.") from None
            actual = _check_again(into, sha256)
        return actual
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def wait(into: Path, sha256: str | None, seconds: float) -> str:
    """Wait until another process has fetched `into`. Answers its digest.

    Raises `FetchError` after `seconds`, or if the files are not the ones wanted.
    """
    until = time.monotonic() + seconds
    while complete(into) is None:
        if time.monotonic() > until:
            raise FetchError(f"{into} has not appeared within {seconds:g} s.")
        time.sleep(POLL_S)
    return _check_again(into, sha256)


def complete(into: Path) -> str | None:
    """The digest that a finished fetch has written; None: there is none."""
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
    except Exception as error:  # of the hub library, its transport or the file system
        raise FetchError(f"{model} at {revision}: {type(error).__name__}: {error}") from error
    shutil.rmtree(into / ".cache", ignore_errors=True)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            yield path


def _check_again(into: Path, wanted: str | None) -> str:
    """The digest of the files as they are now. Raises `FetchError` if the fetch wrote another."""
    actual = digest(into)
    if actual != complete(into):
        raise FetchError(
            f"The files in {into} are no longer what was fetched: their digest is {actual}. "
            "Delete the folder, and have it fetched again."
        )
    return _checked(actual, wanted)


def _checked(actual: str, wanted: str | None) -> str:
    if wanted is not None and actual != wanted:
        raise FetchError(f"The files are not the ones wanted: their digest is {actual}, not {wanted}.")
    return actual


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and print the digest. Answers the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m worker.download", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("model", nargs="?", help="a folder or a hub id")
    parser.add_argument("--into", type=Path, help="the folder to put the model into")
    parser.add_argument("--revision", help="the commit of a hub id")
    parser.add_argument("--sha256", help="the digest that the files must have")
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="wait for another process to fetch it")
    parser.add_argument("--digest", type=Path, metavar="FOLDER", help="print a folder's digest")
    options = parser.parse_args(arguments)
    try:
        if options.digest is not None:
            actual = digest(options.digest)
        elif options.model is None or options.into is None:
            parser.error("MODEL and --into are needed")
        elif options.wait is not None:
            actual = wait(options.into, options.sha256, options.wait)
        else:
            actual = fetch(options.model, options.revision, options.sha256, options.into)
    except (FetchError, OSError) as error:
        sys.stderr.write(f"darkroom fetch: {error}\n")
        return 1
    sys.stdout.write(f"{actual}\n")
    return 0


if __name__ == "__main__":
    # Pods of other users must be able to read the model.
    os.umask(0o022)
    sys.exit(main())
