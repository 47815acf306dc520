"""The traffic of the load test as people would type it: the same prompts, each in one of several wordings. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Final

from benchmarks.load.corpus import COLOURS
from models.recipe.concepts import concept_table

WORDINGS: Final = (
    "a {thing} on a {colour} background",
    "{thing} on a {colour} background",
    "one {thing} on a {colour} background",
    "a picture of a {thing} on a {colour} background",
    "please draw a {thing} on a {colour} background",
    "a {thing}, {colour} background",
    "a {thing} against a {colour} background",
    "on a {colour} background, a {thing}",
    "A {thing} with a {colour} background!",
)
"""Ways to ask for one picture. The first is that of `benchmarks.load`."""

Meaning = tuple[str, str]
"""A thing and a colour."""


def meanings() -> list[Meaning]:
    """What the prompts of `benchmarks.load.corpus.prompts` mean, in their order."""
    return [(thing, colour) for colour, thing in product(COLOURS, (name for _, name in concept_table()))]


def worded(meaning: Meaning, wording: str) -> str:
    """A prompt for the meaning."""
    thing, colour = meaning
    return wording.format(thing=thing, colour=colour)


def traffic(ranks: Sequence[int], wordings: Sequence[str], rng: Any) -> list[tuple[Meaning, str]]:
    """The meaning and the prompt of each request, whose meaning is that of its rank."""
    every = meanings()
    chosen = rng.integers(len(wordings), size=len(ranks))
    asked = [every[int(rank) % len(every)] for rank in ranks]
    return [(meaning, worded(meaning, wordings[way])) for meaning, way in zip(asked, chosen, strict=True)]
