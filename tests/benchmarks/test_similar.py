"""The benchmarks of similar answers and of ranking again, on traffic and hits whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.arms.paraphrases import WORDINGS, meanings, traffic, worded
from benchmarks.arms.reranking import ndcg_10
from benchmarks.load import corpus
from search.same_words import same_words


def test_the_first_wording_is_that_of_the_load_test() -> None:
    assert [worded(meaning, WORDINGS[0]) for meaning in meanings()] == corpus.prompts()


def test_all_wordings_say_the_same() -> None:
    cat = ("cat", "red")
    for wording in WORDINGS:
        assert same_words(worded(cat, wording), worded(cat, WORDINGS[0])), wording
        assert not same_words(worded(cat, wording), worded(("cat", "blue"), WORDINGS[0]))


def test_equal_ranks_mean_the_same() -> None:
    found = traffic([3, 5, 3, 3], WORDINGS, np.random.default_rng(1))
    assert [meaning for meaning, _ in found] == [meanings()[rank] for rank in (3, 5, 3, 3)]
    assert all(meaning[1] in prompt for meaning, prompt in found)


@pytest.mark.parametrize(
    ("right", "total", "gain"),
    [
        ([True] * 10, 60, 1.0),
        ([True] * 3 + [False] * 7, 3, 1.0),
        ([False] * 10, 60, 0.0),
        ([False, True], 1, 1 / np.log2(3)),
        ([], 5, 0.0),
        ([True], 0, 0.0),
        ([True, True], 10, (1 + 1 / np.log2(3)) / (1 / np.log2(np.arange(2, 12))).sum()),
    ],
)
def test_the_gain_is_that_of_the_paper(right: list[bool], total: int, gain: float) -> None:
    assert ndcg_10(right, total) == pytest.approx(gain)
