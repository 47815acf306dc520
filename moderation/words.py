"""Layer 1: banned words of a text, whatever they are disguised as.

A text is folded (`moderation.normalise`) and searched by an automaton for whole words and phrases. Then
words that look disguised are read: leet, stretched letters, letters that stand apart, letters that are
starred out. A reading counts only if it is a word of a list, and if there is a sign of a disguise: plain
words are never bent until they match.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import ahocorasick

from contracts.moderation import Category, Finding
from moderation.normalise import DECIDED, fold, runs, skeleton, spaceless
from moderation.policy import Policy
from moderation.word_list import Entries, read_list, words_of

MAX_SPACED: Final = 4_096
"""The longest row of single letters that is read as words."""
SHORTEST_READING: Final = 3
"""The shortest word that a disguise is read as, in letters."""
SHORTEST_PAIR: Final = 5
"""The shortest word that two plain pieces are read as, and that one doubled letter is a sign in."""
MAX_SIGNS: Final = 4
"""How many signs at the end of a piece are tried as letters."""
STRETCHED: Final = 3
"""As often as this no word repeats a letter."""
_OUTER: Final = ".,;:?()[]{}<>\"'`~-_/\\"
_AROUND: Final = _OUTER + "*#!+|"
"""Signs around a piece that are no part of it."""
_STARRED: Final = re.compile(r"[^\W_]+(?:[*#]{1,3}[^\W_]*)+|[*#]{1,2}[^\W_]{3,}")
_BENT: Final = re.compile(r"(\w)\1|[il]")
"""A doubled letter (`vv` may be `w`), or one of those that stand for each other, as in `pistoI`."""


@dataclass(frozen=True, slots=True)
class Banned:
    """An entry of a list that is banned for some tenants; empty: for all."""

    category: Category
    source: str
    tenants: frozenset[str] = frozenset()


class WordMatcher:
    """The words of a policy, compiled. Safe to use from any thread."""

    def __init__(self, lists: Iterable[tuple[Entries, Banned]], exceptions: Iterable[Entries] = ()) -> None:
        banned: dict[tuple[str, ...], list[Banned]] = {}
        for entries, of in lists:
            for phrase in entries.phrases:
                banned.setdefault(phrase, []).append(of)
        allowed = {phrase for entries in exceptions for phrase in entries.phrases}
        self.banned, self.allowed = len(banned), len(allowed)
        self._automaton = ahocorasick.Automaton()
        for phrase in banned.keys() | allowed:
            pattern = _pattern(phrase)
            self._automaton.add_word(
                pattern, (len(pattern), tuple(banned.get(phrase, ())), phrase in allowed)
            )
        self._automaton.make_automaton()
        self._readings = _Readings([*banned, *allowed])

    def find(self, tenant: str, text: str) -> tuple[Finding, ...]:
        """What the lists of `tenant` find in `text`: one finding for each category and list."""
        folded = fold(text)
        found = dict.fromkeys(self._search(_spaced(words_of(folded))))
        if (read := self._readings.read(folded)) is not None:
            found.update(dict.fromkeys(self._search(_spaced(words_of(read)))))
        return tuple(
            Finding(layer="words", category=each.category, source=each.source)
            for each in found
            if not each.tenants or tenant in each.tenants
        )

    def _search(self, text: str) -> Iterator[Banned]:
        if not self._automaton:
            return
        hits = [
            (end - length + 1, end, banned, allowed)
            for end, (length, banned, allowed) in self._automaton.iter(text)
        ]
        spared = [(first, last) for first, last, _, allowed in hits if allowed]
        for first, last, banned, _ in hits:
            if not any(begin <= first and last <= end for begin, end in spared):
                yield from banned


def compiled(policy: Policy) -> WordMatcher | None:
    """The matcher of a policy; None: it has no lists of words. Raises `InvalidPolicy`."""
    if not policy.words.lists:
        return None
    lists = [(read_list(each.file, plurals=each.with_plurals), each) for each in policy.words.lists]
    return WordMatcher(
        [
            (entries, Banned(each.category, entries.source, frozenset(each.tenants)))
            for entries, each in lists
        ],
        [read_list(file, plurals=True) for file in policy.words.exceptions],
    )


class _Readings:
    """Reads disguised words as words of the lists."""

    def __init__(self, phrases: Sequence[tuple[str, ...]]) -> None:
        self._by_skeleton: dict[str, list[tuple[str, list[int], str]]] = {}
        self._by_length: dict[int, set[str]] = {}
        whole = {word: word for phrase in phrases for word in phrase}
        whole |= {"".join(phrase): " ".join(phrase) for phrase in phrases}
        for word, meant in whole.items():
            if len(word) < SHORTEST_READING and not spaceless(word[0]):
                continue
            self._by_skeleton.setdefault(skeleton(word), []).append((word, runs(word), meant))
            self._by_length.setdefault(len(word), set()).add(word)
        self._lengths = sorted({len(each) for each in self._by_skeleton}, reverse=True)

    def read(self, folded: str) -> str | None:
        """`folded` with its disguised words in plain letters; None: there are none."""
        chunks = folded.split()
        found = False
        out: list[str] = []
        single: list[str] = []
        previous = ""
        for chunk in [*chunks, ""]:
            letter = _single(chunk)
            if letter:
                single.append(letter)
                continue
            if single:
                joined = self._joined("".join(single[:MAX_SPACED])) if len(single) > 1 else None
                found = found or joined is not None
                out.append(" ".join(single) if joined is None else joined)
                single, previous = [], ""
            meant = self._chunk(chunk)
            piece = chunk.strip(_AROUND)
            piece = piece if meant is None and len(piece) > 1 and piece.isalpha() else ""
            if previous and piece:
                meant = self._pair(previous + piece)
            found = found or meant is not None
            out.append(chunk if meant is None else meant)
            previous = piece if meant is None else ""
        return " ".join(out) if found else None

    def _chunk(self, chunk: str) -> str | None:
        """What one disguised piece between spaces means, or None."""
        if chunk.isalpha():
            return self._word(chunk) if _BENT.search(chunk) else None
        if not chunk:
            return None
        inner = chunk.strip(_OUTER)
        for text in _endings(inner):
            letters = "".join(each for each in text if each.isalnum() or each in DECIDED)
            if letters and (meant := self._word(letters, apart=len(letters) < len(text))) is not None:
                return meant
        if ("*" in chunk or "#" in chunk) and (starred := self._starred(chunk)) is not None:
            return starred
        parts = [part for part in re.split(r"[^\w@$!|+\u20ac]+|_", inner) if part]
        return self.read(" ".join(parts)) if len(parts) > 1 else None

    def _word(self, word: str, *, apart: bool = False) -> str | None:
        """The word of a list that `word` is a disguise of, or None. `apart`: signs stood between its letters."""
        if not apart and word in self._by_length.get(len(word), ()):
            return None
        for plain, plain_runs, meant in self._by_skeleton.get(skeleton(word), ()):
            word_runs = runs(word)
            stretched = [
                have - need for have, need in zip(word_runs, plain_runs, strict=True) if have != need
            ]
            if any(more < 0 for more in stretched):
                continue
            signs = apart or "vv" in word or not DECIDED.isdisjoint(word)
            signs = signs or len(stretched) > 1 or max(word_runs) >= STRETCHED
            # Otherwise one letter is doubled, or `i` and `l` stand for each other.
            if signs or len(plain) >= SHORTEST_PAIR:
                return meant
        return None

    def _pair(self, word: str) -> str | None:
        """The word of a list that two plain pieces make together, or None."""
        if len(word) < SHORTEST_PAIR:
            return None
        for plain, _, meant in self._by_skeleton.get(skeleton(word), ()):
            if plain == word and meant == word:
                return meant
        return None

    def _joined(self, letters: str) -> str | None:
        """The words of lists that a row of single letters holds, or None. A word inside a longer one is none."""
        flat, counts = skeleton(letters), runs(letters)
        words: list[str] = []
        reached = 0
        for begin in range(len(flat)):
            for length in self._lengths:
                end = begin + length
                if end > len(flat) or end <= reached:
                    continue
                for _, need, meant in self._by_skeleton.get(flat[begin:end], ()):
                    if all(have >= least for have, least in zip(counts[begin:end], need, strict=True)):
                        words.append(meant)
                        reached = end
                        break
        return " ".join(words) if words else None

    def _starred(self, chunk: str) -> str | None:
        """The word whose letters are starred out, or None."""
        match = _STARRED.search(chunk)
        if match is None:
            return None
        text = match[0]
        stars = sum(text.count(sign) for sign in "*#")
        if stars > 2 or len(text) - stars < 2 or len(text) < SHORTEST_READING + 1:
            return None
        shape = re.compile("".join("\\w" if each in "*#" else re.escape(each) for each in text))
        for word in sorted(self._by_length.get(len(text), ())):
            if shape.fullmatch(word):
                return word
        return None


def _endings(text: str) -> Iterator[str]:
    """The text; then without signs at its end, one after the other: they may be letters or not."""
    yield text
    for _ in range(MAX_SIGNS):
        if text[-1:] not in ("!", "+", "|"):
            return
        text = text[:-1]
        yield text


def _single(chunk: str) -> str:
    """The letter of a piece that is one letter, or a sign that stands for one; else nothing."""
    if len(chunk) == 1:
        return chunk if chunk.isalnum() or chunk in DECIDED else ""
    inner = chunk.strip(_AROUND)
    return inner if len(inner) == 1 and inner.isalnum() else ""


def _spaced(words: Sequence[str]) -> str:
    return f" {' '.join(words)} "


def _pattern(phrase: Sequence[str]) -> str:
    """The phrase as the automaton has it: between spaces, unless its script has none."""
    text = " ".join(phrase)
    return f"{'' if spaceless(text[0]) else ' '}{text}{'' if spaceless(text[-1]) else ' '}"
