"""Which held images look alike, by their embeddings. Pure."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable
from operator import mul

from contracts.reviews import Review

LEAST = 0.5
"""Images with a lower cosine similarity are not alike."""


def similar(review: Review, others: Iterable[Review], limit: int) -> list[tuple[float, Review]]:
    """Up to `limit` of `others` that look like the image of `review`, the most similar first, each with
    the cosine similarity. Embeddings of another model are left out."""
    model, mine = _vector(review)
    scored = []
    for other in others:
        theirs, vector = _vector(other)
        if model and theirs == model and len(vector) == len(mine):
            scored.append((sum(map(mul, mine, vector)), other))
    best = heapq.nlargest(limit, scored, key=lambda pair: pair[0])
    return [(score, other) for score, other in best if score >= LEAST]


def _vector(review: Review) -> tuple[str, tuple[float, ...]]:
    """The model and the numbers of an embedding, of length 1; empty: there is none."""
    picture = review.case.picture
    if picture is None or picture.embedding is None:
        return "", ()
    raw = picture.embedding.raw()
    return picture.embedding.model, struct.unpack(f"<{len(raw) // 2}e", raw)
