"""Heads: small classifiers on the embedding of a prompt, each a JSON file that a policy names.

A head has two parts, and the higher score counts. A logistic regression has learnt from labelled prompts.
Clusters are points that nothing may come close to: centres of the labelled prompts, and phrases that anybody
may add to the file. The second is the idea of Latent Guard (Liu et al. 2024, arXiv 2404.08031): a list of
concepts that is edited while it is in use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from contracts.documents import Frozen
from contracts.moderation import Category, Finding
from moderation.embedding import DIMENSIONS, NAME, Vectors
from moderation.policy import InvalidPolicy, Policy, source_of
from moderation.policy_errors import faults_of

MAX_HEAD_BYTES: Final = 5_000_000
MAX_PHRASES: Final = 1_000

Vector = Annotated[tuple[float, ...], Field(min_length=DIMENSIONS, max_length=DIMENSIONS)]


class Near(Frozen):
    """How near to a cluster is too near: the score rises from 0 at a cosine of `low` to 1 at `high`."""

    low: Annotated[float, Field(ge=-1, le=1)] = 0.55
    high: Annotated[float, Field(ge=-1, le=1)] = 0.85

    @model_validator(mode="after")
    def _rise(self) -> Near:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class HeadFile(Frozen):
    """The file of a head on prompts."""

    kind: Literal["prompts"]
    category: Category
    model: str
    """The embedding that it was trained on, as `moderation.embedding.NAME`."""
    weights: Vector | None = None
    bias: float = 0.0
    clusters: tuple[Vector, ...] = ()
    phrases: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=300)], ...], Field(max_length=MAX_PHRASES)
    ] = ()
    """Phrases that nothing may come close to. Edit them as you like."""
    near: Near = Near()
    note: str = ""
    """What it was trained on, and how well it does."""

    @model_validator(mode="after")
    def _something(self) -> HeadFile:
        if self.weights is None and not self.clusters and not self.phrases:
            raise ValueError("weights, clusters and phrases are all missing: it would find nothing")
        return self


@dataclass(frozen=True, slots=True)
class Head:
    """A head, ready to score."""

    source: str
    category: Category
    weights: Vectors | None
    bias: float
    centres: Vectors
    near: Near

    def scores(self, vectors: Vectors) -> Vectors:
        """The score of each embedding, from (n, 384) to (n,), each from 0 to 1."""
        scores: Vectors = np.zeros(len(vectors), np.float32)
        if self.weights is not None:
            scores = logistic(vectors @ self.weights + self.bias)
        if len(self.centres):
            nearest = (vectors @ self.centres.T).max(1)
            near = (nearest - self.near.low) / (self.near.high - self.near.low)
            scores = np.maximum(scores, near.clip(0, 1))
        return scores


def read_head(path: Path, embed: Callable[[Sequence[str]], Vectors]) -> Head:
    """The head in a file; `embed` makes vectors of its phrases. Raises `InvalidPolicy`, which names the file."""
    source = source_of(path)
    if path.stat().st_size > MAX_HEAD_BYTES:
        raise InvalidPolicy(f"{path} is larger than {MAX_HEAD_BYTES} bytes")
    try:
        file = HeadFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise InvalidPolicy(f"{path} is not JSON") from None
        raise InvalidPolicy(f"{path}: {faults_of(error, HeadFile.model_fields, {})}") from None
    if file.model != NAME:
        raise InvalidPolicy(
            f"{path} was trained on {file.model}, and the embedding here is {NAME}: fit it again"
        )
    centres = [np.asarray(file.clusters, np.float32).reshape(-1, DIMENSIONS)]
    if file.phrases:
        centres.append(embed(file.phrases))
    weights = None if file.weights is None else np.asarray(file.weights, np.float32)
    return Head(source, file.category, weights, file.bias, np.concatenate(centres), file.near)


class Heads:
    """All heads under `meaning` of a policy."""

    def __init__(self, policy: Policy, embed: Callable[[Sequence[str]], Vectors]) -> None:
        """Reads the files. Raises `InvalidPolicy`."""
        self._heads = tuple(read_head(each.file, embed) for each in policy.meaning.heads)
        for head in self._heads:
            if head.category not in policy.rules:
                raise InvalidPolicy(f"{head.source} finds {head.category}, and rules has no entry for it")

    def find(self, vectors: Vectors, owners: Sequence[int], count: int) -> tuple[tuple[Finding, ...], ...]:
        """The findings of `count` texts: of each head, the highest score of the text's vectors.

        Row `i` of `vectors`, (n, 384), belongs to text `owners[i]`.
        """
        found: list[list[Finding]] = [[] for _ in range(count)]
        for head in self._heads:
            best = np.zeros(count, np.float32)
            np.maximum.at(best, np.asarray(owners), head.scores(vectors))
            for text, score in enumerate(best):
                found[text].append(
                    Finding(
                        layer="meaning",
                        category=head.category,
                        score=round(float(score), 4),
                        source=head.source,
                    )
                )
        return tuple(map(tuple, found))


def logistic(values: Vectors) -> Vectors:
    """The logistic function, without overflow."""
    result: Vectors = (0.5 * (1 + np.tanh(0.5 * values))).astype(np.float32)
    return result
