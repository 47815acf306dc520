"""The floor of similarity at which two prompts mean the same, fitted to pairs of prompts that people have judged.

    python -m search.golden                      # of DARKROOM_CLIP
    python -m search.golden --clip FOLDER

The pairs are in `golden_pairs.json`: those that mean the same, and those that do not. The fitted floor is
the least one at which at most `MAX_WRONG` of the pairs with different meanings are taken for the same.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import numpy as np

from contracts import exit_codes
from contracts.errors import SettingsError
from search.same_words import same_words

MAX_WRONG: Final = 0.02
DIGITS: Final = 3
"""Digits of a floor after the point."""

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Fit:
    """A floor. `kept` is the share of pairs of one meaning that pass it, `wrong` that of pairs of two.

    `by_similarity_alone` is the floor without `search.same_words`; above 1: there is none.
    """

    floor: float
    kept: float
    wrong: float
    by_similarity_alone: float


def golden_pairs() -> dict[str, list[tuple[str, str]]]:
    """The pairs: `same`, and `different`."""
    pairs: dict[str, list[list[str]]] = json.loads((files("search") / "golden_pairs.json").read_text())
    return {kind: [(one, other) for one, other in each] for kind, each in pairs.items()}


def fitted(embed: Callable[[Sequence[str]], Any]) -> Fit:
    """The floor for a model. `embed` answers the vectors (N, D) of N texts, each of length 1."""
    pairs = golden_pairs()
    same, different = (_scores(pairs[kind], embed) for kind in ("same", "different"))
    alone = least_floor(different)
    same, different = (
        [score if same_words(*pair) else -1.0 for pair, score in zip(pairs[kind], scores, strict=True)]
        for kind, scores in (("same", same), ("different", different))
    )
    floor = least_floor(different)
    return Fit(floor, _share(same, floor), _share(different, floor), alone)


def least_floor(different: Sequence[float], max_wrong: float = MAX_WRONG) -> float:
    """The least floor that at most `max_wrong` of these similarities reach, with `DIGITS` digits. Pure."""
    allowed = math.floor(max_wrong * len(different))
    first_refused = sorted(different, reverse=True)[allowed]
    return max(0.0, (math.floor(first_refused * 10**DIGITS) + 1) / 10**DIGITS)


def require(floor: float, fit: Fit, clip: str) -> None:
    """Raises `SettingsError` for a floor below the fitted one."""
    if floor < fit.floor:
        raise SettingsError(
            f"DARKROOM_SIMILAR_FLOOR={floor:g} is below {fit.floor:g}. At less, {clip} takes too many prompts of the"
            f" golden pairs for the same that are not: `python -m search.golden` shows the fit."
        )


def _scores(pairs: Pairs, embed: Callable[[Sequence[str]], Any]) -> list[float]:
    one, other = (np.asarray(embed([pair[side] for pair in pairs]), np.float32) for side in (0, 1))
    scores: list[float] = (one * other).sum(1).tolist()
    return scores


def _share(scores: Sequence[float], floor: float) -> float:
    return sum(score >= floor for score in scores) / len(scores)


def main() -> int:
    """Print the fit as JSON; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m search.golden", description=__doc__)
    parser.add_argument("--clip", default=os.environ.get("DARKROOM_CLIP", ""), help="a CLIP or SigLIP")
    from search.clip import ClipModel

    try:
        model = ClipModel(parser.parse_args().clip)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return exit_codes.UNUSABLE
    fit = fitted(model.texts)
    sizes = {kind: len(pairs) for kind, pairs in golden_pairs().items()}
    report = {name: getattr(fit, name) for name in Fit.__slots__}
    sys.stdout.write(json.dumps({"clip": model.name, **report, "pairs": sizes}, indent=2) + "\n")
    return exit_codes.ENDED


if __name__ == "__main__":
    sys.exit(main())
