"""Whether two prompts say the same things, whatever their order. Pure.

The embedding of a text hardly tells "a cat with a hat" from "a cat without a hat", nor two cherries from
three: those are nearer to each other than most paraphrases are. So prompts whose telling words differ are
never taken for the same, however similar their embeddings are. What is left for the embedding is to tell
"a cat chasing a dog" from "a dog chasing a cat". docs/adr/0059 has the figures.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

FILLERS: Final = frozenset((
    "a", "an", "the", "one", "of", "is", "are", "it", "its", "that", "which", "this", "there",
    "please", "draw", "paint", "show", "me", "make", "create", "generate", "give", "i", "would",
    "like", "want", "picture", "image", "photo",
))  # fmt: skip
"""Words that change nothing of what a picture shows."""
EQUAL: Final = {
    "gray": "grey",
    "color": "colour",
    "colored": "coloured",
    "watercolor": "watercolour",
    "large": "big",
    "little": "small",
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "bike": "bicycle",
    "couch": "sofa",
    "piece": "slice",
    "automobile": "car",
}
"""Words for one thing, by the word that stands for both."""
NUMBERS: Final = frozenset((
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
))  # fmt: skip
_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_BACKGROUND: Final = re.compile(
    r"\b(?:on|with|against|before|in front of)(?= (?:(?:a|an|the) )?(?:\w+ )?background\b)"
)
"""What joins a background to the rest of a prompt."""


def telling_words(prompt: str) -> list[str]:
    """The words of a prompt that say what it shows, in their order."""
    plain = _BACKGROUND.sub(" ", " ".join(prompt.casefold().split()))
    words = (EQUAL.get(word, word) for word in _WORD.findall(plain))
    return [word for word in words if word not in FILLERS]


def same_words(one: str, other: str) -> bool:
    """Whether both prompts have the same telling words, and any at all. Numbers must have the same order too."""
    first, second = telling_words(one), telling_words(other)
    return (
        bool(first)
        and Counter(first) == Counter(second)
        and [word for word in first if _is_number(word)] == [word for word in second if _is_number(word)]
    )


def _is_number(word: str) -> bool:
    return word in NUMBERS or word.isdecimal()
