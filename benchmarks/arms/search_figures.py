"""What a search is asked by its benchmark, and its figures. Pure."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from benchmarks.arms import retrieval
from benchmarks.lib.ratios import ratio
from models.recipe import captions, data

ARMS: Final = ("with", "with_again", "without")
"""Platforms that draw in turns: one that embeds and searches, the same again, and one without a CLIP."""
TEN: Final = 10
"""Hits that count."""

Queries = list[tuple[str, int]]
"""Texts, and the number of the thing that each asks for."""


def names_of(emoji: data.EmojiSet) -> Queries:
    """Every thing by its name, with an article."""
    return [(captions.write(concept.name), i) for i, concept in enumerate(emoji.concepts)]


def synonyms_of(emoji: data.EmojiSet) -> Queries:
    """Every thing by its other words, with an article. A word that is the name of a thing is in prompts, and left out."""
    names = {concept.name for concept in emoji.concepts}
    return [
        (captions.write(word), i)
        for i, concept in enumerate(emoji.concepts)
        for word in concept.synonyms
        if word not in names
    ]


def texts_of(emoji: data.EmojiSet, count: int) -> list[str]:
    """Up to `count` texts, each another one: names, then names with a colour."""
    colours = tuple(data.COLOURS)
    named = (
        captions.write(concept.name, None if turn == 0 else colours[(turn + i) % len(colours)])
        for turn in range(len(colours) + 1)
        for i, concept in enumerate(emoji.concepts)
    )
    return list(itertools.islice(dict.fromkeys(named), count))


def precision_10(found: Any, judged: Any, queries: Queries) -> float:
    """The mean share of right pictures in rows (Q, 10), nearest first, where the judge saw `judged` (N,)."""
    wanted = np.array([thing for _, thing in queries])
    return float(retrieval.precision(found, judged[None] == wanted[:, None]).mean())


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """The median and the 99th percentile."""
    return {"p50": float(np.quantile(times, 0.5)), "p99": float(np.quantile(times, 0.99))}


def times_of(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Figures of the requests: `fresh` and `again` are texts asked for the first and for the second time, in ms."""
    fresh, again = quantiles(samples["fresh"]), quantiles(samples["again"])
    one, other = quantiles(samples["fresh"][::2]), quantiles(samples["fresh"][1::2])
    return {
        **{f"search_{name}_ms": value for name, value in fresh.items()},
        **{f"search_known_{name}_ms": value for name, value in again.items()},
        **{f"search_control_{name}": one[name] / other[name] for name in one},
    }


def rates_of(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """What searching costs the drawing: medians of the rounds' ratios, with the interval and the A/A."""
    both = [statistics.fmean(pair) for pair in zip(samples["with"], samples["with_again"], strict=True)]
    cost, control = ratio(both, samples["without"]), ratio(samples["with"], samples["with_again"])
    return {
        "draw_over_without": cost.median,
        "draw_over_without_low": cost.low,
        "draw_over_without_high": cost.high,
        "draw_over_without_control": control.median,
        "draw_over_without_control_low": control.low,
        "draw_over_without_control_high": control.high,
        **{f"images_per_s_{arm}": statistics.median(samples[arm]) for arm in ("with", "without")},
    }
