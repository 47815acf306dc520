"""What is asked for: prompts and how popular each is, sizes and steps, tenants. Drawn before the load begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from models.recipe.concepts import concept_table

T = TypeVar("T")
Floats = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]

COLOURS: Final = ("white", "blue", "yellow", "red", "green", "orange", "purple", "pink", "grey", "black")
LARGEST_UNIVERSE: Final = 2**22
STEEPEST: Final = 4.0
EPOCH: Final = 10**9
"""Seeds of different epochs differ, so that a later run does not find an earlier one's pictures in the cache."""


def prompts(path: Path | None = None) -> list[str]:
    """One prompt a line of the file, or the things that the embedded model knows. Raises `ValueError` for an empty file."""
    if path is None:
        things = [name for _, name in concept_table()]
        return [f"a {thing} on a {colour} background" for colour, thing in product(COLOURS, things)]
    lines = [line.strip() for line in path.read_text().splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise ValueError(f"{path} holds no prompts: one a line.")
    return found


def zipf(universe: int, exponent: float) -> Floats:
    """The chance of each of `universe` requests, most popular first: 1 / rank^exponent (Breslau et al. 1999 for the web)."""
    weights = np.arange(1, universe + 1, dtype=float) ** -exponent
    return np.asarray(weights / weights.sum())


def repeat_share(chances: Floats, count: int) -> float:
    """The share of `count` independent draws that have been drawn before, as expected."""
    if count == 0:
        return 0.0
    distinct = -np.expm1(count * np.log1p(-np.minimum(chances, 1 - 1e-15))).sum()
    return float(1 - distinct / count)


def exponent_for(share: float, universe: int, count: int) -> float:
    """The Zipf exponent at which the expected repeat share of `count` draws is `share`, as near as the universe allows."""
    low, high = 0.0, STEEPEST
    for _ in range(24):
        middle = (low + high) / 2
        if repeat_share(zipf(universe, middle), count) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def measured_repeats(ranks: Ranks) -> float:
    """The share of draws that had been drawn before."""
    return 1 - len(np.unique(ranks)) / len(ranks) if len(ranks) else 0.0


@dataclass(frozen=True, slots=True)
class Popularity:
    """Ranks drawn by popularity, the share of repeats that was expected, and what they came to."""

    ranks: Ranks
    exponent: float
    expected: float
    measured: float


def draw(count: int, universe: int, share: float, rng: np.random.Generator) -> Popularity:
    """`count` ranks of a universe, such that `share` of them are repeats. A share of 0 repeats nothing at all. A universe in
    which more would repeat even if all were equally popular is doubled until it is large enough."""
    if share <= 0:
        return Popularity(np.arange(count), 0.0, 0.0, 0.0)
    while universe < LARGEST_UNIVERSE and repeat_share(zipf(universe, 0.0), count) > share:
        universe *= 2
    exponent = exponent_for(share, universe, count)
    chances = zipf(universe, exponent)
    edges = np.cumsum(chances)
    ranks = np.minimum(np.searchsorted(edges, rng.uniform(size=count)), universe - 1)
    return Popularity(ranks, exponent, repeat_share(chances, count), measured_repeats(ranks))


@dataclass(frozen=True, slots=True)
class Mix:
    """Values and how often each comes. From `64x64=3,128x128=1`; a lone value needs no weight."""

    names: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> Mix:
        """Raises `ValueError` for a weight that is no number from 0 on, or where none is above 0."""
        names, weights = [], []
        for part in filter(None, (each.strip() for each in text.split(","))):
            name, _, weight = part.partition("=")
            names.append(name)
            weights.append(float(weight or 1))
        if not names or min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise ValueError(f"{text!r} is no mix such as 'a=3,b=1'.")
        return cls(tuple(names), tuple(weights))

    def draw(self, count: int, rng: np.random.Generator) -> list[str]:
        chances = np.asarray(self.weights) / sum(self.weights)
        return [self.names[index] for index in rng.choice(len(self.names), count, p=chances)]

    def draw_for(self, ranks: Ranks, rng: np.random.Generator) -> list[str]:
        """One value for each rank, the same for equal ranks: a repeat must be the same request."""
        distinct, places = np.unique(ranks, return_inverse=True)
        values = self.draw(len(distinct), rng)
        return [values[place] for place in places]


def bodies(
    ranks: Sequence[int], texts: Sequence[str], sizes: Sequence[str], steps: Sequence[str], epoch: int
) -> list[dict[str, Any]]:
    """The request of each rank: equal ranks are equal requests where size and steps are equal. `default` leaves a field out."""
    made = []
    for rank, size, step in zip(ranks, sizes, steps, strict=True):
        number, place = divmod(int(rank), len(texts))
        body: dict[str, Any] = {"prompt": texts[place], "seed": epoch * EPOCH + number}
        if size != "default":
            width, _, height = size.partition("x")
            body |= {"width": int(width), "height": int(height or width)}
        if step != "default":
            body["num_inference_steps"] = int(step)
        made.append(body)
    return made
