"""The figures of the search, on queries, times and rates whose answer is known."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.arms import search_figures, search_measures
from models.recipe import data

ROCKET = data.Concept("rocket", "1f680", ("launch", "apple"))
CAT = data.Concept("cat", "1f431", ("kitten",))
APPLE = data.Concept("apple", "1f34e", ())
EMOJI = data.EmojiSet(concepts=(ROCKET, CAT, APPLE), sprites=np.zeros(0))


def test_things_are_asked_for_by_name_and_by_words_that_no_prompt_has() -> None:
    assert search_figures.names_of(EMOJI) == [("a rocket", 0), ("a cat", 1), ("an apple", 2)]
    assert search_figures.synonyms_of(EMOJI) == [("a launch", 0), ("a kitten", 1)]


@pytest.mark.parametrize("count", [1, 3, 10, 33, 500])
def test_no_text_is_asked_twice(count: int) -> None:
    texts = search_figures.texts_of(EMOJI, count)
    assert len(texts) == len(set(texts)) == min(count, 3 * (1 + len(data.COLOURS)))
    assert texts[:3] == ["a rocket", "a cat", "an apple"][:count]


def test_a_hit_is_right_if_the_judge_saw_the_thing() -> None:
    judged = np.array([0] * 10 + [1] * 10)
    rows = np.array([range(10), [*range(10, 15), *range(5)]])
    assert search_figures.precision_10(rows, judged, [("a rocket", 0), ("a cat", 1)]) == pytest.approx(0.75)


def test_times_are_told_of_new_texts_and_of_known_ones_with_equal_arms() -> None:
    samples = {"fresh": [10.0, 20.0] * 500, "again": [2.0] * 999 + [50.0]}
    figures = search_figures.times_of(samples)
    assert figures["search_p50_ms"] == pytest.approx(15.0)
    assert figures["search_p99_ms"] == pytest.approx(20.0)
    assert figures["search_known_p50_ms"] == pytest.approx(2.0)
    assert figures["search_control_p50"] == pytest.approx(0.5)


def test_the_cost_is_the_median_of_the_rounds_ratios() -> None:
    samples = {
        "with": [9.0, 18.0, 2.7],
        "with_again": [9.0, 18.0, 2.7],
        "without": [10.0, 30.0, 3.0],
    }
    figures = search_figures.rates_of(samples)
    assert figures["draw_over_without"] == pytest.approx(0.9)
    assert figures["draw_over_without_low"] == pytest.approx(0.6)
    assert figures["draw_over_without_control"] == 1.0
    assert figures["images_per_s_without"] == 10.0


def test_a_run_of_some_parts_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    assert search_measures.earlier(path, ["found"])["figures"] == {}
    path.write_text(json.dumps({"config": {}, "figures": {"concept_p10": 0.5}, "samples": {}}))
    assert search_measures.earlier(path, ["asked"])["figures"] == {"concept_p10": 0.5}
    assert search_measures.earlier(path, search_measures.PARTS)["figures"] == {}
    with pytest.raises(argparse.ArgumentTypeError, match="no part fond"):
        search_measures.parts("fond,asked")
