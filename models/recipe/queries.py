"""What people type to find a picture: a thing, and the words that they put around it.

`captions` writes the prompts of the painter. A query is looser: it has fillers, moods, counts, plurals
and slips of the finger, and it names a colour, style or place only sometimes. What a query leaves out is
open: a picture fits a query if it has everything that the query names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.recipe import captions, data

OPEN: Final = -1
"""The value of an attribute that a query does not name."""

FRAMES: Final = (
    "a picture of {}", "picture of {}", "an image of {}", "image of {}", "photo of {}", "a photo of {}",
    "a drawing of {}", "drawing of {}", "an icon of {}", "icon of {}", "an emoji of {}", "{} emoji",
    "{} icon", "{} picture", "show me {}", "find {}", "find me {}", "draw {}", "i want {}", "give me {}",
    "i am looking for {}", "search for {}", "please draw {}", "can i see {}", "something like {}",
    "{} please", "{} please, thank you", "where is {}", "pictures with {}", "all pictures of {}",
)  # fmt: skip
QUALITIES: Final = (
    "happy", "smiling", "angry", "sleepy", "cute", "funny", "scary", "friendly", "lonely", "proud",
    "shiny", "rusty", "dusty", "broken", "brand new", "old", "ancient", "modern", "wooden", "golden",
    "metal", "plastic", "paper", "wet", "frozen", "fluffy", "soft", "heavy", "tiny", "huge", "giant",
    "little", "big", "beautiful", "ugly", "lovely", "nice", "perfect", "simple", "colourful", "bright",
    "dark", "fancy", "cheap", "famous", "magic", "wild", "young", "fresh", "tasty", "warm", "cold",
    "fast", "slow", "strange", "round", "flying", "dancing", "running", "sleeping", "very good", "cartoon",
)  # fmt: skip
TAILS: Final = (
    "at night", "in the rain", "in the snow", "by the sea", "in the city", "in space", "at home",
    "in the garden", "with a hat", "with big eyes", "for my friend", "for a birthday", "in high quality",
    "very detailed", "digital art", "vector art", "clip art", "minimal", "close up", "from above",
    "in the sun", "on the table", "cartoon style", "simple and clean", "and nothing else", "it is so nice",
    "i like it", "for my website", "without text", "in good light",
)  # fmt: skip
COUNTS: Final = ("two", "three", "four", "five", "many", "some", "several", "a few", "lots of")
_ARTICLES: Final = ("", "a", "a", "the", "one", "my", "this", "some", "any", "another")
_GROUNDS: Final = (
    "{thing} on a {colour} background", "{thing} on {colour}", "{thing}, {colour} background",
    "{thing} {colour} background", "{colour} background {thing}", "{thing} with a {colour} background",
    "{thing} in front of {colour}", "{colour} background with {thing}", "{thing}, {colour}",
)  # fmt: skip
_BARE_GROUNDS: Final = (
    "{colour}", "{colour} background", "a {colour} background", "on {colour}", "something on {colour}",
    "everything on a {colour} background",
)  # fmt: skip
_STYLES: Final = {
    "noto": ("noto style", "noto", "in noto style"),
    "flat": ("flat style", "flat", "flat design"),
}
_PLACES: Final = {"left": ("on the left", "left"), "right": ("on the right", "to the right")}
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_VOWEL: Final = re.compile(r"\ba(?= [aeio])")


@dataclass(frozen=True, slots=True)
class Query:
    """A text, and the attributes that it names: numbers of a concept, colour, style and layout, or `OPEN`."""

    text: str
    concept: int = OPEN
    colour: int = OPEN
    style: int = OPEN
    layout: int = OPEN


def split_synonyms(concept: data.Concept) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The synonyms to train on, and those kept out: one, by a stable hash, where there are three or more."""
    if len(concept.synonyms) < 3:
        return concept.synonyms, ()
    out = hashlib.sha256(concept.name.encode()).digest()[0] % len(concept.synonyms)
    kept = concept.synonyms[out]
    return tuple(word for word in concept.synonyms if word != kept), (kept,)


def plural(thing: str) -> str:
    """More than one of a thing, by the regular rules."""
    if thing.endswith("s") and not thing.endswith(("ss", "us")):
        return thing
    if thing.endswith(("s", "x", "z", "ch", "sh")):
        return thing + "es"
    if thing.endswith("y") and thing[-2:-1] not in "aeiou":
        return thing[:-1] + "ies"
    if thing.endswith("f") and not thing.endswith(("ff", "oof")):
        return thing[:-1] + "ves"
    return thing + "s"


def misspell(rng: np.random.Generator, text: str) -> str:
    """The text with one letter dropped, doubled, replaced, or swapped with the next; the first letter stays."""
    if len(text) < 5:
        return text
    at = int(rng.integers(1, len(text) - 1))
    middle = (
        "",
        text[at] * 2,
        _LETTERS[int(rng.integers(len(_LETTERS)))],
        text[at + 1] + text[at],
    )
    way = int(rng.integers(len(middle)))
    return text[:at] + middle[way] + text[at + (2 if way == 3 else 1) :]


def fits(queries: Sequence[Query], attributes: np.ndarray) -> np.ndarray:
    """Which picture has everything that a query names: bool (Q, N).

    `attributes` holds the concept, colour, style and layout of each picture, int (N, 4).
    """
    named = np.array([(q.concept, q.colour, q.style, q.layout) for q in queries])
    return ((named[:, None] == OPEN) | (named[:, None] == attributes[None])).all(2)


class Writer:
    """Writes queries for training. It never uses a synonym that is kept out."""

    def __init__(self, concepts: tuple[data.Concept, ...]) -> None:
        self.names = [concept.name for concept in concepts]
        self.synonyms = [split_synonyms(concept)[0] for concept in concepts]
        self.colours = tuple(data.COLOURS)

    def short(self, rng: np.random.Generator, concept: int) -> Query:
        """A query that names a thing and no colour, style or place."""
        thing = self._thing(rng, concept)
        form = rng.random()
        if form < 0.3:
            return Query(_articled("a", thing), concept)
        if form < 0.45:
            return Query(thing, concept)
        return Query(self._freely(rng, concept, thing), concept)

    def full(self, rng: np.random.Generator, attributes: Sequence[int]) -> Query:
        """A query for a picture of these attributes (concept, colour, style, layout); it leaves some of them open."""
        concept, colour, style, layout = map(int, attributes)
        says_style, says_layout = rng.random() < 0.3, rng.random() < 0.15
        if rng.random() < 0.1:
            return Query(_pick(rng, _BARE_GROUNDS).format(colour=self.colours[colour]), colour=colour)
        thing = self._thing(rng, concept)
        says_colour = rng.random() < 0.85
        named = (
            concept,
            colour if says_colour else OPEN,
            style if says_style else OPEN,
            layout if says_layout else OPEN,
        )
        if rng.random() < 0.5:
            text = captions.write(
                thing,
                self.colours[colour] if says_colour else None,
                data.STYLES[style] if says_style else None,
                data.LAYOUTS[layout].name if says_layout else None,
                int(rng.integers(5)),
            )
            return Query(text, *named)
        place = data.LAYOUTS[layout].name if says_layout else ""
        if place in ("small", "large"):
            thing = f"{place} {thing}"
        text = (
            self._freely(rng, concept, thing)
            if rng.random() < 0.4
            else _articled(_pick(rng, _ARTICLES), thing)
        )
        if says_colour:
            text = _pick(rng, _GROUNDS).format(thing=text, colour=self.colours[colour])
        if place in _PLACES:
            text = f"{text}, {_pick(rng, _PLACES[place])}"
        if says_style:
            text = f"{text}, {_pick(rng, _STYLES[data.STYLES[style]])}"
        return Query(_VOWEL.sub("an", text), *named)

    def all_texts(self) -> list[str]:
        """Every word that queries can hold, to train a tokenizer on."""
        things = [
            word for name, more in zip(self.names, self.synonyms, strict=True) for word in (name, *more)
        ]
        around = [*FRAMES, *QUALITIES, *TAILS, *COUNTS, *_ARTICLES]
        words = [frame.replace("{}", "") for frame in around] * 4
        grounds = [
            template.format(thing="a thing", colour=colour)
            for template in (*_GROUNDS, *_BARE_GROUNDS)
            for colour in self.colours
        ]
        rest = [word for choices in (*_STYLES.values(), *_PLACES.values()) for word in choices] * 4
        named = [form for thing in things for form in (f"a {thing}", thing, thing, plural(thing))]
        return [*named, *words, *grounds, *rest, *["small large"] * 4]

    def _thing(self, rng: np.random.Generator, concept: int) -> str:
        synonyms = self.synonyms[concept]
        return _pick(rng, synonyms) if synonyms and rng.random() < 0.4 else self.names[concept]

    def _freely(self, rng: np.random.Generator, concept: int, thing: str) -> str:
        if rng.random() < 0.12:
            thing = misspell(rng, thing)
        article = _pick(rng, _ARTICLES)
        if rng.random() < 0.2:
            thing, article = plural(thing), _pick(rng, ("", "the", "my", *COUNTS))
        if rng.random() < 0.45:
            thing = f"{self._quality(rng, concept)} {thing}"
        text = _articled(article, thing)
        if rng.random() < 0.4:
            text = _pick(rng, FRAMES).format(text)
        if rng.random() < 0.25:
            text = f"{text}{_pick(rng, (' ', ', ', '. '))}{_pick(rng, TAILS)}"
        return text

    def _quality(self, rng: np.random.Generator, concept: int) -> str:
        """A word before the thing. One in four is made up: a word that was never seen has to change nothing."""
        form = rng.random()
        if form < 0.25:
            count = int(rng.integers(3, 9))
            return "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=count))
        if form < 0.35 and not any(colour in self.names[concept] for colour in self.colours):
            return _pick(rng, self.colours)
        return _pick(rng, QUALITIES)


def _articled(article: str, thing: str) -> str:
    return _VOWEL.sub("an", f"{article} {thing}".strip())


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
