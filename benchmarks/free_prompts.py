"""Three hundred prompts as people type them, for `benchmarks/fidelity.py`. No training saw one of them.

Most of the words around the thing are in no list of the training's (`models/recipe/free_captions.py`),
and each prompt is one of the captions that the training leaves out (`free_captions.reserved`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from models.recipe import data, free_captions

COUNT = 300
_MODIFIERS_TEXT = """
smiling sad grumpy joyful nervous sneaky dreamy furious melancholy gentle fierce lazy playful clumsy noble
gigantic crooked polished wrinkled velvety crispy gleaming muddy handmade haunted invisible expensive cheap
legendary sleek chubby hungry sparkly embarrassed heroic drowsy cosy elderly youthful majestic adorable
bronze porcelain denim ceramic bamboo titanium pixelated neon embroidered oak carved inflatable woven plush
happy cute golden wooden old shiny fluffy angry beautiful silver funny scary sleepy fresh vintage plastic
"""
_COUNTS_TEXT = (
    "two|three|four|six|seven|nine|ten|twelve|a dozen|a bunch of|a couple of|several|countless|plenty of|5|6"
)
_OPENERS_TEXT = "could you sketch|give me|hey, paint|just|let us have|i would love|render|sticker of|portrait of|kindly create|draw|show me"
_CLOSERS_TEXT = (
    "thanks|right now|for my sister|in watercolour|as a sticker|for my website|with lots of detail|, minimalist|, so lovely"
    "|after lunch|in 8k|made by hand|for kids|please|in my kitchen"
)
_SENTENCES_TEXT = (
    "We found it yesterday|Do your best|It belongs to Anna|That one is my hobby|Nobody knows why|It was a gift from Tom"
    "|I am a teacher|Good morning|Let me show you something|The weather is fine|It is happy|Thank you"
)
MODIFIERS = _MODIFIERS_TEXT.split()
COUNTS, OPENERS, CLOSERS, SENTENCES = (
    text.split("|") for text in (_COUNTS_TEXT, _OPENERS_TEXT, _CLOSERS_TEXT, _SENTENCES_TEXT)
)


@dataclass(frozen=True, slots=True)
class FreePrompt:
    """A prompt, the index of the thing that it asks for, and what is free about it."""

    text: str
    concept: int
    kind: str


Maker = Callable[[np.random.Generator, str], str]


def _one(rng: np.random.Generator, options: list[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _misspelt(rng: np.random.Generator, thing: str) -> str:
    return _a(free_captions.misspell(rng, thing))


KINDS: dict[str, tuple[int, Maker]] = {
    "modifier": (70, lambda rng, thing: _a(f"{_one(rng, MODIFIERS)} {thing}")),
    "two modifiers": (30, lambda rng, thing: _a(f"{_one(rng, MODIFIERS)} {_one(rng, MODIFIERS)} {thing}")),
    "count": (35, lambda rng, thing: f"{_one(rng, COUNTS)} {free_captions.plural(thing)}"),
    "count and modifier": (
        15,
        lambda rng, thing: f"{_one(rng, COUNTS)} {_one(rng, MODIFIERS)} {free_captions.plural(thing)}",
    ),
    "no article": (20, lambda rng, thing: f"{_one(rng, MODIFIERS)} {thing}"),
    "filler before": (25, lambda rng, thing: f"{_one(rng, OPENERS)} {_a(thing)}"),
    "filler after": (25, lambda rng, thing: f"{_a(thing)} {_one(rng, CLOSERS)}".replace(" ,", ",")),
    "capitals": (20, lambda rng, thing: f"{_one(rng, MODIFIERS)} {thing}!".upper()),
    "misspelt": (30, _misspelt),
    "two sentences": (15, lambda rng, thing: f"{_a(thing).capitalize()}. {_one(rng, SENTENCES)}."),
    "second sentence": (15, lambda rng, thing: f"{_one(rng, SENTENCES)}. {_a(thing).capitalize()}."),
}


def words() -> frozenset[str]:
    """The words of mood, look, material and count that stand around the things."""
    return frozenset([*MODIFIERS, *(word for count in COUNTS for word in count.split())])


def prompts(concepts: tuple[data.Concept, ...], seed: int = 300) -> list[FreePrompt]:
    """The prompts, the same at every call; no thing is asked for twice."""
    rng = np.random.default_rng(seed)
    things = rng.permutation(len(concepts)).tolist()
    known = free_captions.known_words(concepts)
    table = []
    for kind, (count, make) in KINDS.items():
        for _ in range(count):
            found = next(filter(None, (_prompt(rng, make, concepts[i].name, known) for i in _taken(things))))
            table.append(FreePrompt(found, things.pop(), kind))
    return table


def _taken(things: list[int]) -> Iterator[int]:
    """The things in turn; the one that is looked at last stands at the end of the list."""
    for _ in range(len(things)):
        things.append(things.pop(0))
        yield things[-1]


def _prompt(rng: np.random.Generator, make: Maker, name: str, known: frozenset[str]) -> str | None:
    """A reserved prompt for the thing, if some tries find one. A slip must change it, and name no other thing."""
    for _ in range(40):
        text = make(rng, name)
        strange = set(text.lower().split()) - set(name.lower().split()) - {"a", "an"}
        if free_captions.reserved(text) and strange and not (make is _misspelt and strange & known):
            return text
    return None
