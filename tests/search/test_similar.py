"""Which prompts of a group mean the same as another: by words, by similarity, by seed, of one model."""

from __future__ import annotations

from typing import Any

import numpy as np

from contracts.pictures import Embedding
from contracts.similar import SimilarPrompt, SimilarQuery
from search.similar import MOST_LOOKED_UP, matches

CLIP = "c@1"


def vector(angle: float) -> Any:
    return np.array([np.cos(angle), np.sin(angle)], np.float16)


def known(number: int, prompt: str, angle: float = 0.0, seed: int = 7, clip: str = CLIP) -> SimilarPrompt:
    return SimilarPrompt(
        address=f"a.{number}",
        prompt=prompt,
        seed=seed,
        embedding=Embedding.of(clip, vector(angle).tobytes()),
        at=0.0,
    )


def found(prompts: list[SimilarPrompt], floor: float = 0.9, **query: Any) -> list[str]:
    fields: dict[str, Any] = {"group": "g", "address": "a.0", "prompt": "a red apple", "own_seed": 1}
    asked = SimilarQuery(**fields, floor=floor, **query)
    return [match.address for match in matches(asked, vector(0.0), prompts, CLIP, floor)]


def test_the_most_similar_is_first_and_less_than_the_floor_is_none() -> None:
    prompts = [
        known(1, "the red apple", 0.2),
        known(2, "red apple", 0.1),
        known(3, "one red apple", 1.0),
    ]
    assert found(prompts) == ["a.2", "a.1"]
    assert found(prompts, floor=0.99) == ["a.2"]
    assert found([]) == []


def test_other_words_another_model_and_the_request_itself_are_passed_over() -> None:
    assert (
        found([known(1, "a green apple"), known(2, "the red apple", clip="c@2"), known(0, "red apple")]) == []
    )


def test_a_seed_that_is_named_must_be_the_same() -> None:
    prompts = [known(1, "the red apple", seed=7), known(2, "red apple", 0.1, seed=8)]
    assert found(prompts, seed=8) == ["a.2"]
    assert found(prompts, seed=9) == []
    assert found(prompts, seed=None) == ["a.1", "a.2"]


def test_an_answer_has_a_bound() -> None:
    assert len(found([known(number, "the red apple") for number in range(1, 200)])) == MOST_LOOKED_UP
