"""Text as a person reads it: what letters are meant, whatever stands for them. Pure.

Letters of other scripts that look like Latin ones follow Unicode's confusables (UTS 39), as the package
`confusable-homoglyphs` has them. Word lists are folded in the same way, so a list in any script works.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from itertools import groupby
from typing import Any, Final

LEET: Final = str.maketrans(
    {
        **dict(zip("01!|3€4@5$7+8962", "oiiieeaassttbggz", strict=True)),
        "l": "i",
        "£": "i",
        "¢": "c",
    }
)
"""What digits and signs stand for. `l` becomes `i` on both sides, since `1` stands for either."""
DECIDED: Final = frozenset("0123456789!|€@$+£¢")
"""What a letter is never written with, unless it is disguised."""
_LUNATE: Final = {0x03F2: "c", 0x03F9: "c"}
"""Forms of sigma that look like `c`: NFKC would make a sigma of them."""
_ENCLOSED: Final = ((0x1F130, 26), (0x1F150, 26), (0x1F170, 26), (0x1F1E6, 26))
"""Letters in squares and circles, and those of flags: they have no decomposition."""
_NAMED: Final = re.compile(
    r"LATIN (?:SMALL |CAPITAL )?LETTER (?:SMALL CAPITAL )?([A-Z])(?: WITH .*| ROTUNDA)?\Z"
)
_JOINED_MARKS: Final = (
    (0x0300, 0x036F),
    (0x1AB0, 0x1AFF),
    (0x1DC0, 0x1DFF),
    (0x20D0, 0x20FF),
    (0xFE00, 0xFE0F),
    (0xFE20, 0xFE2F),
    (0xE0100, 0xE01EF),
)
"""Combining marks that belong to no script, and variation selectors."""
_SPACELESS: Final = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


def fold(text: str) -> str:
    """`text` in compatibility form (NFKC) and lower case, without accents and format characters.

    Letters that look like Latin ones are Latin.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text.translate(_LUNATE)).casefold().translate(_table())


def spaceless(character: str) -> bool:
    """Whether the script of `character` puts no spaces between words."""
    return _within(ord(character), _SPACELESS)


def skeleton(word: str) -> str:
    """What a disguised `word` has in common with the plain one: leet read, and every letter once.

    Of a text that `fold` has made. `vv` is read as `w`.
    """
    return "".join(letter for letter, _ in groupby(word.translate(LEET).replace("vv", "w")))


def runs(word: str) -> list[int]:
    """How often each letter of `skeleton(word)` stands in `word`."""
    return [len(list(group)) for _, group in groupby(word.translate(LEET).replace("vv", "w"))]


class _Table(dict[int, str]):
    """What each character becomes. Filled as characters come; bounded by Unicode."""

    def __init__(self, confusables: Mapping[str, Any]) -> None:
        super().__init__()
        self._confusables = confusables

    def __missing__(self, code: int) -> str:
        self[code] = folded = self._folded(chr(code))
        return folded

    def _folded(self, character: str) -> str:
        code = ord(character)
        if code < 128:
            return character
        if unicodedata.category(character) in ("Cf", "Cc", "Cs") or _within(code, _JOINED_MARKS):
            return ""
        for first, count in _ENCLOSED:
            if first <= code < first + count:
                return chr(ord("a") + code - first)
        base = unicodedata.normalize("NFD", character)
        if len(base) > 1 and all(_within(ord(mark), _JOINED_MARKS) for mark in base[1:]):
            return self[ord(base[0])]
        return self._like(character) or character

    def _like(self, character: str) -> str:
        """The Latin letter that `character` looks like, or nothing."""
        if named := _NAMED.match(unicodedata.name(character, "")):
            return named[1].lower()
        # Upper case was folded. Some capitals look Latin where their small letters do not.
        for form in (character, character.upper()):
            for like in self._confusables.get(form, ()):
                letter = like["c"].lower()
                if len(letter) == 1 and "a" <= letter <= "z":
                    return str(letter)
        return ""


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in ranges)


@lru_cache(maxsize=1)
def _table() -> _Table:
    text = resources.files("confusable_homoglyphs").joinpath("confusables.json").read_text("utf-8")
    return _Table(json.loads(text))
