"""What the CLIP is trained to understand, and what it is kept from."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.arms import emoji_search
from models.recipe import data, queries

ROCKET = data.Concept("rocket", "1f680", ("launch", "spaceship", "moonshot", "booster"))
CAT = data.Concept("cat", "1f431", ("kitten", "kitty"))
APPLE = data.Concept("red apple", "1f34e", ())
CONCEPTS = (ROCKET, CAT, APPLE)


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def test_one_synonym_of_three_or_more_is_kept_out() -> None:
    trained, kept = queries.split_synonyms(ROCKET)
    assert len(kept) == 1
    assert sorted((*trained, *kept)) == sorted(ROCKET.synonyms)
    assert queries.split_synonyms(ROCKET) == (trained, kept)
    assert queries.split_synonyms(CAT) == (CAT.synonyms, ())


def test_no_query_for_training_holds_what_is_kept_out() -> None:
    writer, rng = queries.Writer(CONCEPTS), np.random.default_rng(0)
    (kept,) = queries.split_synonyms(ROCKET)[1]
    texts = [writer.short(rng, 0).text for _ in range(2000)]
    texts += [writer.full(rng, (0, 3, 1, 2)).text for _ in range(2000)]
    assert not [text for text in (*texts, *writer.all_texts()) if kept in words(text)]
    assert {"rocket", "rockets", *queries.split_synonyms(ROCKET)[0]} <= set().union(*map(words, texts))


def test_the_phrases_that_are_measured_have_no_word_of_training() -> None:
    around = [*queries.FRAMES, *queries.QUALITIES, *queries.TAILS, *queries.COUNTS]
    trained = set().union(*map(words, around))
    common = set(re.findall(r"\w+", "a an the of with in do you let us i it one from my to"))
    for phrase in emoji_search.FREE:
        assert words(phrase) - trained - common, phrase
        assert not (words(phrase) & trained) - common, phrase


def test_a_query_names_what_it_says() -> None:
    writer, rng = queries.Writer(CONCEPTS), np.random.default_rng(1)
    shown = (1, list(data.COLOURS).index("purple"), 1, 2)
    for _ in range(500):
        query = writer.full(rng, shown)
        if query.colour != queries.OPEN or "background" in words(query.text):
            assert "purple" in words(query.text), query
        assert query.concept in (1, queries.OPEN)
        if query.style == 1:
            assert "flat" in words(query.text)
        if query.layout == 2:
            assert "left" in words(query.text)


def test_a_picture_fits_a_query_if_it_has_all_that_is_named() -> None:
    shown = np.array([(0, 3, 0, 1), (0, 4, 1, 1), (2, 3, 0, 0)])
    asked = [
        queries.Query("rocket", 0),
        queries.Query("on red", colour=3),
        queries.Query("rocket on red", 0, 3),
        queries.Query("rocket on red, flat", 0, 3, 1),
    ]
    assert queries.fits(asked, shown).tolist() == [
        [True, True, False],
        [True, False, True],
        [True, False, False],
        [False, False, False],
    ]


@pytest.mark.parametrize(
    ("one", "many"),
    [("rocket", "rockets"), ("cherry", "cherries"), ("fox", "foxes"), ("key", "keys"), ("leaf", "leaves"),
     ("scissors", "scissors"), ("brush", "brushes"), ("octopus", "octopuses")],
)  # fmt: skip
def test_plurals(one: str, many: str) -> None:
    assert queries.plural(one) == many


def test_a_misspelt_word_keeps_its_first_letter_and_length_within_one() -> None:
    rng = np.random.default_rng(2)
    made = {queries.misspell(rng, "rocket") for _ in range(300)}
    assert len(made) > 40
    assert all(each[0] == "r" and abs(len(each) - 6) <= 1 for each in made)
    assert queries.misspell(rng, "cat") == "cat"


def test_no_quality_turns_a_thing_into_another() -> None:
    from models.recipe.concepts import concept_table

    names = {name for _, name in concept_table()}
    assert not {f"{quality} {name}" for quality in queries.QUALITIES for name in names} & names
