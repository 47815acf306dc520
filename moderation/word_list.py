"""Files of banned words and of harmless phrases: one a line, `#` begins a comment."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moderation.normalise import fold, spaceless
from moderation.policy import InvalidPolicy

MAX_BYTES: Final = 10_000_000
MAX_CHARS: Final = 100
"""The longest entry, in characters."""
SHORTEST: Final = 2
"""The shortest entry of a script that puts spaces between words, in characters."""
WORD: Final = re.compile(r"[^\W_]+")
_SIGNS: Final = str.maketrans({"'": "", "\u2019": "", "&": " and "})
_VES: Final = {"knife": "knives", "life": "lives", "wife": "wives", "leaf": "leaves", "thief": "thieves"}
_ES: Final = ("s", "x", "z", "ch", "sh")


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of one file, each as its words in folded form."""

    source: str
    """The file's name and the first digits of its SHA-256."""
    phrases: tuple[tuple[str, ...], ...]


def read_list(path: Path, *, plurals: bool) -> Entries:
    """The entries of a file; with `plurals`, English plural forms too.

    Raises `InvalidPolicy`, which names the file and the line at fault.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidPolicy(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise InvalidPolicy(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidPolicy(f"{path}: line {line} is not UTF-8") from None
    phrases: dict[tuple[str, ...], None] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        entry = raw.partition("#")[0].strip()
        if not entry:
            continue
        if len(entry) > MAX_CHARS:
            raise InvalidPolicy(f"{path}: line {number} is longer than {MAX_CHARS} characters")
        if not entry.isprintable():
            raise InvalidPolicy(f"{path}: line {number} holds control characters: this is no list of words")
        phrase = words_of(fold(entry))
        if not phrase or (len("".join(phrase)) < SHORTEST and not spaceless(phrase[0][0])):
            raise InvalidPolicy(f"{path}: line {number} is too short: it would match nearly every text")
        phrases.update(dict.fromkeys(_forms(phrase) if plurals else [phrase]))
    if not phrases:
        raise InvalidPolicy(f"{path} has no entries")
    return Entries(f"{path.name}@{hashlib.sha256(data).hexdigest()[:8]}", tuple(phrases))


def words_of(folded: str) -> tuple[str, ...]:
    """The words of a folded text. An apostrophe is part of its word, and `&` is `and`."""
    return tuple(WORD.findall(folded.translate(_SIGNS)))


def _forms(phrase: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The phrase; with its last word as a plural; and, of `bow and arrow`, with both."""
    yield phrase
    last = plural(phrase[-1])
    yield (*phrase[:-1], last)
    if len(phrase) == 3 and phrase[1] == "and":
        yield (plural(phrase[0]), "and", last)


def plural(noun: str) -> str:
    """The regular English plural of a noun. Of a word that is one already, and ends in `s`, itself."""
    if noun in _VES:
        return _VES[noun]
    if noun.endswith("s") and not noun.endswith("ss"):
        return noun
    if noun.endswith(_ES):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"
