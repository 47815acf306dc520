"""Where an archive goes: a new file that is there once it is whole, or standard output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from cli.archive import ArchiveRefused

PIPE: Final = Path("-")


def target_of(out: Path, name: str, suffix: str = ".tar") -> Path:
    """The file to write; in a folder one of that name with the time in it. Raises `ArchiveRefused`."""
    if out == PIPE:
        if sys.stdout.isatty():
            raise ArchiveRefused("Standard output is a terminal: name a file, or send it into one.")
        return out
    if out.is_dir():
        out /= time.strftime(f"{name}-%Y%m%dT%H%M%SZ{suffix}", time.gmtime())
    if out.exists():
        raise ArchiveRefused(f"{out} exists already.")
    return out


@contextmanager
def written(target: Path) -> Iterator[BinaryIO]:
    """The file under its name once it is whole and on the disk; readable for its owner alone."""
    if target == PIPE:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    partial = target.with_name(f".{target.name}.part")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
