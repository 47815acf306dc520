"""Moves hits by the clicks that earlier searches for the same words got. Pure.

A click says that a person chose a hit, and little more: a hit near the top is clicked more often
whatever it shows. So one click moves little, and no number of clicks moves a hit far. (Joachims et al.,
"Accurately Interpreting Clickthrough Data as Implicit Feedback", SIGIR 2005.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from search.fusion import Hit, Rank, rescored

MAX_RISE: Final = 20
"""A hit never passes another that is more than this many places before it."""
PRIOR: Final = 5
"""Clicks on nothing that every query starts with. With one real click, an image has a sixth of the clicks."""


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Each image's share of the clicks, from 0 to below 1, smoothed by `PRIOR` clicks on nothing."""
    whole = PRIOR + sum(counts.values())
    return {name: count / whole for name, count in counts.items()}


def moved(hits: Sequence[Hit], counts: Mapping[str, int]) -> list[Hit]:
    """The hits, each moved up by its share of `MAX_RISE` places.

    Args:
        hits: the hits, the best first.
        counts: the clicks on each image, by its name.
    """
    share = shares(counts)
    clicked = sorted(
        (hit.key.name for hit in hits if hit.key.name in share), key=lambda name: (-share[name], name)
    )
    evidence = {name: Rank(rank, share[name]) for rank, name in enumerate(clicked, 1)}
    placed = sorted(
        enumerate(hits), key=lambda each: (each[0] - MAX_RISE * share.get(each[1].key.name, 0.0), each[0])
    )
    return rescored(hits, [replace(hit, clicks=evidence.get(hit.key.name)) for _, hit in placed])
