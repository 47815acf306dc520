"""The floor of similarity is fitted, and less is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import SettingsError
from search.clip import ClipModel
from search.golden import MAX_WRONG, Fit, fitted, golden_pairs, least_floor, require
from search.same_words import same_words
from tests.integration.conftest import ROOT

SIMILARITIES = st.lists(st.floats(-1, 1), min_size=1, max_size=200)


@given(SIMILARITIES, st.floats(0, 0.5))
def test_no_more_than_allowed_reach_the_floor_and_no_lower_one_would_do(
    different: list[float], wrong: float
) -> None:
    floor = least_floor(different, wrong)
    assert sum(each >= floor for each in different) <= wrong * len(different)
    lower = round(floor - 0.002, 3)
    assert lower < 0 or sum(each >= lower for each in different) > wrong * len(different)


def test_the_pairs_are_each_there_once() -> None:
    pairs = golden_pairs()
    every = [frozenset(pair) for kind in pairs.values() for pair in kind]
    assert len(set(every)) == len(every)
    assert all(len(pair) == 2 for pair in every)
    # What similarity alone must decide is part of the set.
    assert sum(same_words(*pair) for pair in pairs["different"]) >= 15


def test_a_model_that_tells_all_apart_has_a_low_floor() -> None:
    pairs = golden_pairs()

    def embed(texts: Sequence[str]) -> Any:
        """Two texts have the same vector if and only if a pair says that they mean the same."""
        kinds: dict[str, int] = {}
        for one, other in pairs["same"]:
            kinds[one] = kinds[other] = kinds.get(one, kinds.get(other, len(kinds)))
        rows = [kinds.get(text, 500 + hash(text) % 1500) for text in texts]
        return np.eye(2000)[rows]

    fit = fitted(embed)
    assert fit.wrong <= MAX_WRONG
    assert fit.floor <= 0.001
    assert fit.kept > 0.5


def test_the_embedded_model_is_fitted() -> None:
    model = ClipModel(str(ROOT / "models" / "emoji-clip"))
    fit = fitted(model.texts)
    assert 0.9 < fit.floor < 1
    assert fit.wrong <= MAX_WRONG
    assert fit.kept > 0.2
    assert fit.by_similarity_alone > fit.floor, "words tell apart what the embedding does not"
    require(fit.floor, fit, model.name)
    with pytest.raises(SettingsError, match=rf"DARKROOM_SIMILAR_FLOOR=0\.5 is below {fit.floor:g}"):
        require(0.5, fit, model.name)


def test_the_fit_refuses_what_is_below() -> None:
    fit = Fit(floor=0.9, kept=0.5, wrong=0.0, by_similarity_alone=1.0)
    require(0.9, fit, "c@1")
    with pytest.raises(SettingsError, match=r"c@1"):
        require(0.899, fit, "c@1")
