"""What is read from a source, and why something of it is left out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

MAX_BYTES: Final = 8 * 2**20
"""The largest picture that is read, by default: what a server takes by default."""
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
_RIFF: Final = b"RIFF"


class Reason(StrEnum):
    """Why a picture is left out, or its caption is not as it was."""

    FORMAT = "no_picture"
    BYTES = "too_large"
    PIXELS = "too_many_pixels"
    DAMAGED = "damaged"
    HEAVY = "too_heavy"
    UNREADABLE = "unreadable"
    FOLDER = "folder_unreadable"
    URL = "no_url"
    ADDRESS = "inner_address"
    ROBOTS = "robots"
    REDIRECTS = "redirects"
    STATUS = "http_error"
    SILENT = "no_answer"
    EMPTY = "page_without_pictures"
    DENIED = "denied"
    REFUSED = "refused"
    CAPTION_CUT = "caption_cut"
    CAPTION_UNREADABLE = "caption_unreadable"


WORDS: Final[Mapping[Reason, str]] = {
    Reason.FORMAT: "is no PNG, JPEG or WebP",
    Reason.BYTES: "is too large",
    Reason.PIXELS: "has too many pixels",
    Reason.DAMAGED: "is damaged",
    Reason.HEAVY: "takes too long or too much memory to decode",
    Reason.UNREADABLE: "cannot be read",
    Reason.FOLDER: "is a folder that cannot be read",
    Reason.URL: "is no http or https address",
    Reason.ADDRESS: "leads to an address that is not public",
    Reason.ROBOTS: "is forbidden by robots.txt",
    Reason.REDIRECTS: "is redirected too often",
    Reason.STATUS: "is answered with an error",
    Reason.SILENT: "is not answered",
    Reason.EMPTY: "is a page without pictures",
    Reason.DENIED: "is denied by the bucket",
    Reason.REFUSED: "is refused by the server",
    Reason.CAPTION_CUT: "has a caption that was cut",
    Reason.CAPTION_UNREADABLE: "has a caption that cannot be read, and came without it",
}
NOTES: Final = frozenset({Reason.CAPTION_CUT, Reason.CAPTION_UNREADABLE})
"""Reasons that leave nothing out."""


@dataclass(frozen=True, slots=True)
class Item:
    """A picture of a source. `key` names it there, `origin` is what the server records of that."""

    key: str
    origin: str
    caption: str = ""


class Skipped(Exception):
    """An item is left out. `detail` says more than the reason."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail or WORDS[reason])
        self.reason = reason
        self.detail = detail


class SourceFailed(Exception):
    """Nothing of the source can be read. The message says why."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A picture's bytes, or the pictures of a page (`items`). `note`: what happened to its caption."""

    data: bytes = b""
    caption: str = ""
    note: Reason | None = None
    items: Sequence[Item] | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The items of a source, and what of it cannot be read: its name, and why."""

    items: Sequence[Item]
    skipped: Sequence[tuple[str, Skipped]] = ()


class Source(Protocol):
    """Where pictures are read from. `local`: reading one again costs nothing."""

    local: bool

    async def list(self) -> Listing:
        """All items. Raises `SourceFailed`."""
        ...

    async def load(self, item: Item) -> Loaded:
        """The picture of an item. Raises `Skipped`."""
        ...

    async def close(self) -> None:
        """Close connections and threads."""
        ...


@dataclass(slots=True)
class Summary:
    """What came of a source's pictures. `left_out` and `notes` count by reason, `examples` has the first few of each."""

    added: int = 0
    known: int = 0
    left_out: Counter[Reason] = field(default_factory=Counter)
    notes: Counter[Reason] = field(default_factory=Counter)
    examples: dict[Reason, list[str]] = field(default_factory=dict)

    def leave_out(self, name: str, skipped: Skipped) -> None:
        """Count an item that is left out."""
        self.left_out[skipped.reason] += 1
        self._example(skipped.reason, f"{name}: {skipped.detail}" if skipped.detail else name)

    def note(self, name: str, reason: Reason) -> None:
        """Count a picture that was taken, with something to say about it."""
        self.notes[reason] += 1
        self._example(reason, name)

    @property
    def done(self) -> int:
        """Pictures that need no further work."""
        return self.added + self.known + self.left_out.total()

    def _example(self, reason: Reason, text: str) -> None:
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(text)


EXAMPLES: Final = 3
"""Examples that are kept for each reason."""


def looks_like_picture(data: bytes) -> bool:
    """Whether the file begins as a PNG, JPEG or WebP does. The server looks closer."""
    return data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (
        data.startswith(_RIFF) and data[8:12] == b"WEBP"
    )
