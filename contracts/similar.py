"""Answers from the cache to prompts that mean the same: what the API asks the search process, and what is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contracts.documents import Document
from contracts.pictures import Embedding
from contracts.requests import MAX_SEED

Similarity = Annotated[float, Field(ge=0, le=1)]


class SimilarPrompt(Document):
    """A prompt whose result is, or will be, at `address` in the result cache. `at` is in Unix seconds."""

    address: str
    prompt: str
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    embedding: Embedding
    at: float


class SimilarQuery(Document):
    """A request that asks for the result of a prompt that means the same.

    `group` (`cache.cache_key.parameter_group`) names all that is equal but the prompt and the seed. The
    request's own result will be at `address`. `seed` is the only one that may answer; None: any may.
    """

    group: str
    address: str
    prompt: str
    own_seed: int
    seed: int | None = None
    floor: Similarity


class SimilarMatch(Document):
    """A prompt that means the same, and the cosine similarity."""

    address: str
    prompt: str
    score: float


class SimilarAnswer(Document):
    """The matches, the most similar first. Their results may be gone from the cache."""

    matches: tuple[SimilarMatch, ...] = ()
