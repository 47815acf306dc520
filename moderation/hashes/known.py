"""A list of known images, opened: looks a picture up by everything that the list has."""

from __future__ import annotations

import hashlib
from pathlib import Path

from contracts.moderation import Category, Finding
from contracts.ports.picture_judge import PictureToJudge
from moderation.hashes import list_file
from moderation.hashes.exact import digests_in


class KnownImages:
    """One list. `open` reads it; a look-up may run on any thread."""

    def __init__(self, path: Path, category: Category) -> None:
        """Read and check the list of the policy's `category`. Raises `list_file.InvalidList`."""
        header, arrays = list_file.read(path)
        if header.category != category:
            raise list_file.InvalidList(
                f"{path} is a list of {header.category}, and the policy names it for {category}"
            )
        self.header = header
        self._title = f"{path.name}@{header.revision}"
        self._digests = {kind: digests_in(kind, arrays) for kind in ("sha256", "md5")}

    def look(self, picture: PictureToJudge) -> list[Finding]:
        """What the list says of the picture."""
        found = []
        for kind, known in self._digests.items():
            if len(known) and hashlib.new(kind, picture.file, usedforsecurity=False).digest() in known:
                found.append(self._finding(kind, 1.0))
        return found

    def _finding(self, how: str, score: float) -> Finding:
        return Finding(
            layer="hashes", category=self.header.category, score=score, source=f"{self._title} by {how}"
        )
