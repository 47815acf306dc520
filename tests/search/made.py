"""Records for the tests of the index, and an index that is right by being simple."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from contracts.pictures import Embedding, PictureRecord
from search import words
from search.index import Match, Place
from search.where import EVERYTHING, Where

CLIP: Final = "emoji-clip@1"
DIMENSIONS: Final = 8


def vector(seed: int, dimensions: int = DIMENSIONS) -> bytes:
    """A vector of length 1."""
    numbers = np.random.default_rng(seed).normal(size=dimensions)
    return (numbers / np.linalg.norm(numbers)).astype("<f2").tobytes()


def name_of(number: int) -> str:
    return f"{number:064x}.png"


def record(number: int, scope: str = "a", *, turned: int | None = None, **fields: Any) -> PictureRecord:
    """The picture `number`. `turned`: the seed of its vector, if it is not the number."""
    raw = vector(number if turned is None else turned)
    given: dict[str, Any] = {"created_at": 1000.0 + number, "expires_at": 10_000.0, "width": 64, "height": 64}
    given |= {"prompt": f"picture {number}", "model": "emoji-turbo", "seed": number, **fields}
    return PictureRecord(scope=scope, name=name_of(number), embedding=Embedding.of(CLIP, raw), **given)


class Exact:
    """An index in a dictionary."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], PictureRecord] = {}

    def put(self, records: Sequence[PictureRecord]) -> None:
        self.records |= {(each.scope, each.name): each for each in records}

    def delete(self, scope: str, names: Sequence[str]) -> int:
        return sum(self.records.pop((scope, name), None) is not None for name in set(names))

    def erase(self, scope: str) -> int:
        return self.delete(scope, [name for each, name in self.records if each == scope])

    def expire(self, now: float, limit: int) -> int:
        old = sorted(
            (each for each in self.records.values() if each.expires_at <= now),
            key=lambda each: each.expires_at,
        )
        return sum(self.delete(each.scope, [each.name]) for each in old[:limit])

    def count(self, scope: str | None = None) -> int:
        return sum(scope in (None, each) for each, _ in self.records)

    def of(self, scopes: Sequence[str], where: Where = EVERYTHING) -> list[PictureRecord]:
        return [each for each in self.records.values() if each.scope in scopes and where.matches(each)]

    def nearest(
        self, scopes: Sequence[str], raw: bytes, count: int, where: Where = EVERYTHING
    ) -> list[Match]:
        query = np.frombuffer(raw, "<f2").astype(np.float64)
        scored = [Match(each.scope, each.name, _cosine(query, each)) for each in self.of(scopes, where)]
        return sorted(scored, key=lambda each: -each.score)[:count]

    def by_words(
        self, scopes: Sequence[str], text: str, count: int, where: Where = EVERYTHING
    ) -> list[Match]:
        everything = self.of(scopes)
        prompts = {(each.scope, each.name): words.terms(each.prompt) for each in everything}
        frequencies = {
            term: sum(term in each for each in prompts.values()) for term in words.query_terms(text)
        }
        weight = words.weights(frequencies, len(everything))
        scored = [
            Match(each.scope, each.name, words.score(prompts[each.scope, each.name], weight))
            for each in self.of(scopes, where)
            if set(weight) & set(prompts[each.scope, each.name])
        ]
        return sorted(scored, key=lambda each: -each.score)[:count]

    def newest(
        self, scopes: Sequence[str], count: int, where: Where = EVERYTHING, before: Place | None = None
    ) -> list[Match]:
        every = [Match(each.scope, each.name, each.created_at) for each in self.of(scopes, where)]
        ordered = sorted(every, key=lambda each: (-each.score, each.name, each.scope))
        if before is not None:
            after = (-before.created_at, before.name)
            ordered = [each for each in ordered if (-each.score, each.name) > after]
        return ordered[:count]


def _cosine(query: Any, each: PictureRecord) -> float:
    assert each.embedding is not None
    other = np.frombuffer(each.embedding.raw(), "<f2").astype(np.float64)
    return float(query @ other / (np.linalg.norm(query) * np.linalg.norm(other)))


def assert_same(found: Sequence[Match], right: Sequence[Match], every: Sequence[Match], slack: float) -> None:
    """The matches are as good as the right ones. `every`: the scores of all pictures that may be found.

    Pictures of equal scores may come in any order, so the scores are compared and not the names.
    """
    scores = {each.key: each.score for each in every}
    assert len({each.key for each in found}) == len(found), "nothing twice"
    assert [each.key for each in found if each.key not in scores] == [], "nothing that must not be found"
    assert len(found) == len(right)
    for each in found:
        assert math.isclose(each.score, scores[each.key], abs_tol=slack), each
    for each, best in zip(found, right, strict=True):
        assert math.isclose(each.score, best.score, abs_tol=slack), (each, best)
    assert all(each.score >= after.score for each, after in pairwise(found)), "best first"
