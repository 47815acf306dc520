"""The words of prompts and queries, and how a picture is scored by them. Pure.

Every index stores the terms of a prompt and looks up the terms of a query. Both come from `terms`, so
all engines find the same pictures. A score is BM25 with the term frequency left out: a prompt that
repeats a word is no better. (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and
Beyond", 2009, section 3.)

A common word may be in a million prompts. `plan` therefore says which sets of terms to look up, the most
telling first, and an index stops once it has `pool` pictures.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final

MAX_CHARS: Final = 4000
"""Only so much of a text is read."""
MAX_TERM_CHARS: Final = 40
MAX_PROMPT_TERMS: Final = 256
MAX_QUERY_TERMS: Final = 12
"""The first distinct terms of a query are looked up, and no others."""
COMMON: Final = frozenset(
    ("a", "an", "and", "at", "by", "for", "in", "is", "it", "of", "on", "or", "the", "to", "with")
)
"""English words that say nothing of what a picture shows. A list of pictures that have only these would be as good as
a list of any pictures, and fusion, which sees ranks, would mix it in."""
_K1: Final = 1.2
_B: Final = 0.75
_MEAN_TERMS: Final = 8.0
"""The length of a typical prompt, in terms. A constant, so that a score does not change with other prompts."""
_WORD: Final = re.compile(r"[a-z0-9]+")
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
"""Scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana and Han."""


def terms(text: str, limit: int = MAX_PROMPT_TERMS) -> list[str]:
    """The distinct terms of a text, in the order of their first use. Each is a run of letters, marks and digits.

    Case, compatibility forms and Latin accents do not count, nor does an English plural. In scripts without
    spaces, each character and each pair of neighbours is a term.
    """
    found = dict[str, None]()
    for word in _words(text[:MAX_CHARS]):
        for term in _split(word):
            found[term[:MAX_TERM_CHARS]] = None
            if len(found) >= limit:
                return list(found)
    return list(found)


def query_terms(text: str) -> list[str]:
    """The terms of a query that are looked up: those that tell something, or all where none does."""
    found = terms(text, MAX_PROMPT_TERMS)
    return ([term for term in found if term not in COMMON] or found)[:MAX_QUERY_TERMS]


def _words(text: str) -> list[str]:
    folded = text.casefold()
    if folded.isascii():
        return [_singular(word) for word in _WORD.findall(folded)]
    words, word, base = list[str](), list[str](), ""
    for char in unicodedata.normalize("NFKD", folded).casefold():
        category = unicodedata.category(char)
        if category[0] in "LN":
            word.append(char)
            base = char
        elif category[0] == "M":
            if word and not ("a" <= base <= "z"):
                word.append(char)
        elif category != "Cf" and word:  # format characters, such as a soft hyphen, are no gap
            words.append("".join(word))
            word = []
    words.append("".join(word))
    return [_singular(unicodedata.normalize("NFC", each)) for each in words if each]


def _singular(word: str) -> str:
    """An English word without the ending of a plural. (Harman, "How Effective Is Suffixing?", 1991: the S stemmer.)"""
    if len(word) < 4 or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return word if word.endswith(("eies", "aies")) else f"{word[:-3]}y"
    if word.endswith("es"):
        return word if word.endswith(("aes", "ees", "oes")) else word[:-1]
    return word if word.endswith(("us", "ss")) else word[:-1]


def _split(word: str) -> list[str]:
    """The terms of one word: itself, or the characters and pairs of its parts in scripts without spaces."""
    if word.isascii():
        return [word]
    parts, at = list[str](), 0
    for run in _UNSPACED.finditer(word):
        parts += [word[at : run.start()]] if run.start() > at else []
        chars = run[0]
        parts += [*chars, *(chars[i : i + 2] for i in range(len(chars) - 1))]
        at = run.end()
    return parts + ([word[at:]] if at < len(word) else [])


def plan(frequencies: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Which sets of terms to look up, one after the other. A picture must have all terms of a set.

    `frequencies`: how many pictures have each term. All terms come first, then all but the most common, and
    so on to the rarest alone. Then come the other terms alone, from rare to common.
    """
    rare = sorted((term for term, count in frequencies.items() if count), key=lambda t: (frequencies[t], t))
    together = [tuple(rare[:size]) for size in range(len(rare), 0, -1)]
    return together + [(term,) for term in rare[1:]]


def pool(count: int) -> int:
    """How many pictures an index gathers and scores for a query that wants `count`."""
    return max(400, 2 * count)


def weights(frequencies: Mapping[str, int], pictures: int) -> dict[str, float]:
    """How much each term tells: its inverse document frequency among `pictures` pictures. Never negative."""
    return {
        term: math.log(1.0 + max(0.0, pictures - count + 0.5) / (count + 0.5))
        for term, count in frequencies.items()
        if count
    }


def score(prompt_terms: Sequence[str], weight: Mapping[str, float]) -> float:
    """The score of a prompt with these distinct terms. Zero: it has no term of the query."""
    told = sum(weight[term] for term in prompt_terms if term in weight)
    return told * (_K1 + 1) / (1 + _K1 * (1 - _B + _B * len(prompt_terms) / _MEAN_TERMS))
