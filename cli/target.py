"""The output of an archive: a new file that appears once it is complete, or standard output."""

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
    """Returns the file to write.

    In a folder `out` its name is `name`, the time and `suffix`. Raises `ArchiveRefused`.
    """
    if out == PIPE:
        if sys.stdout.isatty():
            raise ArchiveRefused("Standard output is a terminal: name a file, or redirect the output.")
        return out
    if out.is_dir():
        out /= time.strftime(f"{name}-%Y%m%dT%H%M%SZ{suffix}", time.gmtime())
    if out.exists():
        raise ArchiveRefused(f"{out} exists already.")
    return out


@contextmanager
def written(target: Path) -> Iterator[BinaryIO]:
    """Yields a file to write to.

    It gets its name once it is complete and synced. Only its owner can read it.
    """
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
