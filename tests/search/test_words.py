"""Terms of texts in any script, and the order in which they are looked up."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.words import (
    MAX_PROMPT_TERMS,
    MAX_QUERY_TERMS,
    MAX_TERM_CHARS,
    plan,
    query_terms,
    score,
    terms,
    weights,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("A red ROCKET, a rocket!", ["a", "red", "rocket"]),
        ("two red cherries and buses", ["two", "red", "cherry", "and", "buse"]),
        ("glass, cactus, is", ["glass", "cactus", "is"]),
        ("Café CAFÉ cafe\u0301 ﬁne", ["cafe", "fine"]),
        ("snake_case 3d v1.5", ["snake", "case", "3d", "v1", "5"]),
        ("Straße", ["strasse"]),
        ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zerowidth"]),
        ("Красная ракета", ["красная", "ракета"]),
        ("黒猫", ["黒", "猫", "黒猫"]),
        ("SF猫x", ["sf", "猫", "x"]),
        ("🚀 rocket", ["rocket"]),
        ("हिन्दी", ["हिन्दी"]),
        ("ｆｕｌｌ　ｗｉｄｔｈ", ["full", "width"]),
    ],
)
def test_terms(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


@given(st.text(max_size=200))
def test_any_text_has_terms_that_no_engine_reads_as_syntax(text: str) -> None:
    found = terms(text)
    assert len(set(found)) == len(found)
    for term in found:
        assert 0 < len(term) <= MAX_TERM_CHARS
        assert not re.search(r"[\s\"'\\*^():&|!<>{}\-]", term)
        assert all(unicodedata.category(char)[0] in "LNM" for char in term)


@given(st.text(max_size=60))
def test_a_text_is_found_by_itself(text: str) -> None:
    assert set(query_terms(text)) <= set(terms(text))
    assert bool(query_terms(text)) == bool(terms(text))


def test_long_texts_are_cut() -> None:
    assert len(terms(" ".join(map(str, range(10_000))))) == MAX_PROMPT_TERMS
    assert len(query_terms(" ".join(map(str, range(10_000))))) == MAX_QUERY_TERMS
    assert terms("x" * 100_000) == ["x" * MAX_TERM_CHARS]


def test_the_rarest_terms_are_looked_up_together_first() -> None:
    assert plan({"a": 900, "red": 50, "rocket": 3, "zzz": 0}) == [
        ("rocket", "red", "a"),
        ("rocket", "red"),
        ("rocket",),
        ("red",),
        ("a",),
    ]
    assert plan({}) == plan({"a": 0}) == []


def test_a_rare_word_tells_more_and_a_short_prompt_wins() -> None:
    weight = weights({"a": 900, "red": 50, "rocket": 3, "zzz": 0}, 1000)
    assert weight["rocket"] > weight["red"] > weight["a"] >= 0
    assert "zzz" not in weight
    both = score(["a", "red", "rocket"], weight)
    assert both > score(["rocket"], weight) > score(["red"], weight) > score(["a"], weight) >= 0
    assert score(["rocket"], weight) > score(["rocket", *map(str, range(30))], weight)
    assert score(["car"], weight) == 0
    assert min(weights({"a": 2000}, 1000).values()) >= 0, "counts of two moments"


def test_words_that_tell_nothing_are_looked_up_only_where_there_are_no_others() -> None:
    assert query_terms("a kitten on the mat") == ["kitten", "mat"]
    assert query_terms("on the") == ["on", "the"]
    assert terms("a kitten") == ["a", "kitten"], "a prompt keeps all of its words"
    filled = " ".join(["a the of"] * 20 + ["kitten"])
    assert query_terms(filled) == ["kitten"]
