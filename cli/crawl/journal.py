"""Which files of a source were sent: so a run that was killed does not fetch them again.

A line for each picture: the SHA-256 of its file, a tab, and its key. Whether the server still has it, the
server says. A line that was cut short by a kill is left out.
"""

from __future__ import annotations

import fcntl
import re
from pathlib import Path
from typing import Final, TextIO

from cli.crawl.items import SourceFailed

_LINE: Final = re.compile(r"([0-9a-f]{64})\t([^\n]+)\n")


class Journal:
    """The hashes of the files that were sent, by key. `known` are those of earlier runs. `close` it."""

    def __init__(self, path: Path) -> None:
        """Raises `SourceFailed` where another run has it open, or it cannot be written."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = path.open("a+", encoding="utf-8", errors="surrogateescape", newline="\n")
        except OSError as error:
            raise SourceFailed(f"{path}: {error.strerror}.") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise SourceFailed(f"Another command is adding this source: {path} is in use.") from None
        self._file.seek(0)
        text = self._file.read()
        self.known: dict[str, str] = {key: digest for digest, key in _LINE.findall(text)}
        if text and not text.endswith("\n"):
            self._file.write("\n")

    def note(self, key: str, digest: str) -> None:
        """The file of this hash was sent."""
        if self.known.get(key) != digest and "\n" not in key:
            self._file.write(f"{digest}\t{key}\n")
            self._file.flush()

    def close(self, *, finished: bool) -> None:
        """Close the file, and delete it once the source is done."""
        if finished:
            self._path.unlink(missing_ok=True)
        self._file.close()
