"""Finds prompts that mean the same as another, among those whose results may be in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from cache.similar_prompts import RedisSimilarPrompts
from contracts.pictures import Embedding
from contracts.ports.clock import Clock
from contracts.similar import SimilarAnswer, SimilarMatch, SimilarPrompt, SimilarQuery
from search.embedder import Embedder, Vector
from search.same_words import same_words

MOST: Final = 3
"""Matches of one answer. The images of the first one may be gone."""
MOST_LOOKED_UP: Final = 100
"""Matches whose results are looked for."""


class SimilarPrompts:
    """Answers which prompts with a cached result mean the same as that of a query. Where none does, it remembers the query's own.

    `floor` is the least similarity, whatever a query asks for.
    """

    def __init__(self, prompts: RedisSimilarPrompts, embedder: Embedder, clock: Clock, floor: float) -> None:
        self._prompts = prompts
        self._embedder = embedder
        self._clock = clock
        self._floor = floor

    async def find(self, query: SimilarQuery) -> SimilarAnswer:
        """The matches of the query. Raises `StoreUnavailable`."""
        now = self._clock.now()
        vector = await self._embedder.text(query.prompt)
        known = await self._prompts.get(query.group, now)
        floor = max(self._floor, query.floor)
        found = matches(query, vector, known, self._embedder.name, floor)
        there = await self._prompts.with_results([match.address for match in found])
        answers = tuple(match for match in found if match.address in there)[:MOST]
        if not answers and all(prompt.address != query.address for prompt in known):
            # It will be drawn. A prompt that another's images answer gets no result to lend.
            embedding = Embedding.of(self._embedder.name, vector.astype("<f2").tobytes())
            own = SimilarPrompt(
                address=query.address,
                prompt=query.prompt,
                seed=query.own_seed,
                embedding=embedding,
                at=now,
            )
            await self._prompts.add(query.group, own)
        return SimilarAnswer(matches=answers)


def matches(
    query: SimilarQuery, vector: Vector, known: Sequence[SimilarPrompt], clip: str, floor: float
) -> tuple[SimilarMatch, ...]:
    """The prompts that mean the same as the query's, the most similar first. Pure.

    Args:
        query: the prompt, and the seed that is asked for.
        vector: the embedding of the query's prompt by the model `clip`, (dimensions,), of length 1.
        known: the prompts of the query's group, the newest first.
        clip: `name@revision`. Prompts with an embedding of another model are left out.
        floor: the least cosine similarity.
    """
    candidates = [
        prompt
        for prompt in known
        if prompt.embedding.model == clip
        and prompt.address != query.address
        and query.seed in (None, prompt.seed)
        and same_words(prompt.prompt, query.prompt)
    ]
    if not candidates:
        return ()
    vectors = np.stack([np.frombuffer(each.embedding.raw(), "<f2") for each in candidates])
    scores = (vectors.astype(np.float32) @ vector.astype(np.float32)).tolist()
    found = [
        SimilarMatch(address=each.address, prompt=each.prompt, score=min(score, 1.0))
        for each, score in zip(candidates, scores, strict=True)
        if score >= floor
    ]
    return tuple(sorted(found, key=lambda match: -match.score)[:MOST_LOOKED_UP])
