"""What a prompt says is its telling words: neither their order nor what is put around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.same_words import FILLERS, same_words, telling_words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a red apple", "An apple that is RED."),
        ("a red apple", "please draw a picture of the red apple"),
        ("a dog on a blue background", "dog, blue background"),
        ("a dog on a blue background", "a dog against the blue background"),
        ("a grey elephant", "a gray elephant"),
        ("2 cherries", "two cherries"),
    ],
)
def test_these_have_the_same(one: str, other: str) -> None:
    assert same_words(one, other)
    assert same_words(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a cat with a hat", "a cat without a hat"),
        ("two cherries", "three cherries"),
        ("two cats and three dogs", "three cats and two dogs"),
        ("a cup on a table", "a cup under a table"),
        ("a dog", "a dog and a dog"),
        ("a red apple", "a green apple"),
        ("a cherry", "cherries"),
        ("a", "the"),
        ("", ""),
        ("!", "?"),
    ],
)
def test_these_have_not(one: str, other: str) -> None:
    assert not same_words(one, other)
    assert not same_words(other, one)


@given(st.text(max_size=60), st.lists(st.sampled_from(sorted(FILLERS)), max_size=5))
def test_fillers_change_nothing(prompt: str, fillers: list[str]) -> None:
    more = " ".join([*fillers, prompt, *fillers])
    assert sorted(telling_words(more)) == sorted(telling_words(prompt))


@given(st.lists(st.sampled_from(["cat", "dog", "red", "on", "with"]), min_size=1, max_size=6), st.randoms())
def test_order_changes_nothing(words: list[str], random: object) -> None:
    turned = sorted(words, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert same_words(" ".join(words), " ".join(turned))
