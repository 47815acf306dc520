"""The port of what is known of files that are being published after a reviewer's release.

Between the moment at which a process learns of a release and the moment at which it has stored the
file under its public name, the release may be undone. The process then deletes the file again. A process that dies
before it does leaves its note, and others delete the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Publication:
    """A file that is being published. `decided_as` is the name by which people's decisions on its image are
    kept. `id` is unique."""

    name: str
    decided_as: str
    id: str


class Publications(Protocol):
    """Files that are being published. Every coroutine raises `StoreUnavailable`."""

    async def begin(self, name: str, decided_as: str) -> Publication:
        """Note that a file is about to be stored under its public name."""
        ...

    async def end(self, publications: Iterable[Publication]) -> None:
        """Forget them: the files are stored, and their releases hold, or they are deleted again."""
        ...

    async def unfinished(self) -> Sequence[Publication]:
        """Those that were not ended. They are forgotten after `store.publications.KEEP_S`."""
        ...
