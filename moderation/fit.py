"""Fits a head on labelled prompts, and says how good it is. Pure; equal input gives an equal head.

The logistic regression is fitted by Newton's method with a quadratic penalty, both classes with equal weight.
Clusters are the centres of k-means on the harmful prompts. All figures are of prompts that the scored copy
has not seen: five folds, chosen by the hash of each text.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moderation.embedding import NAME, Vectors
from moderation.heads import Head, HeadFile, Near, logistic

FOLDS: Final = 5
PENALTY: Final = 0.1
CLUSTERS: Final = 12
NEWTON_STEPS: Final = 30
MEANS_STEPS: Final = 50
LEAST: Final = 20
"""The fewest prompts of each label."""
SPARED: Final = 0.999
"""The share of benign prompts that no cluster may reach."""
NEAR_WIDTH: Final = 0.1
"""From a score of 0 to 0.5 by a cluster, as a difference of cosines."""
DIGITS: Final = 5

Labels = NDArray[np.bool_]


class InvalidPrompts(ValueError):
    """The file of labelled prompts cannot be used. The message says why."""


@dataclass(frozen=True, slots=True)
class Report:
    """How well a head does on prompts that it has not seen."""

    harmful: int
    benign: int
    auc: float
    """The area under the ROC curve."""
    threshold: float
    """The highest threshold with the wanted recall."""
    recall: float
    false_alarms: float
    """The share of benign prompts at or above the threshold."""
    roc: tuple[tuple[float, float], ...]
    """Points of the ROC curve: the share of false alarms, and the recall."""


def read_prompts(text: str, category: str) -> tuple[list[str], Labels]:
    """Prompts and whether each is harmful, from CSV with the columns `prompt` and `label`.

    A label is the category (or 1), or `benign` (or 0). Raises `InvalidPrompts`.
    """
    rows = csv.DictReader(io.StringIO(text))
    if not {"prompt", "label"} <= set(rows.fieldnames or ()):
        raise InvalidPrompts("the first line must name the columns prompt and label")
    known = {category: True, "1": True, "benign": False, "0": False}
    labelled: dict[str, bool] = {}
    for row in rows:
        prompt, label = (row["prompt"] or "").strip(), (row["label"] or "").strip().lower()
        if label not in known:
            raise InvalidPrompts(f"line {rows.line_num}: the label must be {category}, 1, benign or 0")
        if not prompt:
            raise InvalidPrompts(f"line {rows.line_num}: the prompt is empty")
        if labelled.setdefault(prompt, known[label]) != known[label]:
            raise InvalidPrompts(f"line {rows.line_num}: the same prompt has the other label above")
    labels = np.array(list(labelled.values()), bool)
    if min(labels.sum(), len(labels) - labels.sum()) < LEAST:
        raise InvalidPrompts(f"it needs at least {LEAST} prompts of each label")
    return list(labelled), labels


def fitted(
    prompts: Sequence[str],
    vectors: Vectors,
    labels: Labels,
    category: str,
    *,
    recall: float,
    phrases: Sequence[str] = (),
    note: str = "",
) -> tuple[HeadFile, Report]:
    """The head of all prompts, and the figures of five that have each not seen a fifth of them.

    `vectors`, (n, 384), are the embeddings of `prompts`.
    """
    fold = np.array([hashlib.sha256(prompt.encode()).digest()[0] % FOLDS for prompt in prompts])
    scores = np.zeros(len(prompts), np.float32)
    for number in range(FOLDS):
        seen = fold != number
        if labels[seen].all() or not labels[seen].any():
            raise InvalidPrompts("too few different prompts to hold some of them out")
        scores[~seen] = _fit(vectors[seen], labels[seen], category).scores(vectors[~seen])
    head = _fit(vectors, labels, category)
    file = HeadFile(
        kind="prompts",
        category=category,
        model=NAME,
        weights=None if head.weights is None else _rounded(head.weights),
        bias=round(head.bias, DIGITS),
        clusters=tuple(_rounded(centre) for centre in head.centres),
        phrases=tuple(phrases),
        near=head.near,
        note=note,
    )
    return file, report(scores, labels, recall)


def report(scores: NDArray[Any], labels: Labels, recall: float) -> Report:
    """The figures of `scores`, (n,), at the wanted recall."""
    order = np.argsort(-scores, kind="stable")
    positive, negative = int(labels.sum()), int((~labels).sum())
    ranked, ordered = scores[order], labels[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # equal scores are told apart by no threshold
    hits, alarms = np.cumsum(ordered)[last], np.cumsum(~ordered)[last]
    tpr, fpr = np.append(0, hits / positive), np.append(0, alarms / negative)
    index = int(np.argmax(tpr >= recall))
    threshold = float(np.floor(ranked[last][index - 1] * 1e4) / 1e4)
    return Report(
        harmful=positive,
        benign=negative,
        auc=float(np.trapezoid(tpr, fpr)),
        threshold=threshold,
        recall=float((scores[labels] >= threshold).mean()),
        false_alarms=float((scores[~labels] >= threshold).mean()),
        roc=tuple(zip(fpr.tolist(), tpr.tolist(), strict=True)),
    )


def _fit(vectors: Vectors, labels: Labels, category: str) -> Head:
    weights, bias = _regression(vectors, labels)
    centres = _means(vectors[labels], min(CLUSTERS, int(labels.sum())))
    spared = float(np.quantile((vectors[~labels] @ centres.T).max(1), SPARED))
    low = round(min(spared, 1 - 2 * NEAR_WIDTH), DIGITS)
    near = Near(low=low, high=round(low + 2 * NEAR_WIDTH, DIGITS))
    return Head("", category, weights, bias, centres, near)


def _regression(vectors: Vectors, labels: Labels) -> tuple[Vectors, float]:
    """Weights, (384,), and bias of the logistic regression of `labels` on `vectors`."""
    inputs = np.hstack([vectors, np.ones((len(vectors), 1))]).astype(np.float64)
    share = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum()) * len(labels)
    penalty = np.full(inputs.shape[1], PENALTY)
    penalty[-1] = 1e-6  # the bias is free
    weights = np.zeros(inputs.shape[1])
    for _ in range(NEWTON_STEPS):
        predicted = 0.5 * (1 + np.tanh(0.5 * (inputs @ weights)))
        gradient = inputs.T @ (share * (predicted - labels)) + penalty * weights
        curvature = (inputs * (share * predicted * (1 - predicted))[:, None]).T @ inputs
        step = np.linalg.solve(curvature + np.diag(penalty), gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return weights[:-1].astype(np.float32), float(weights[-1])


def _means(vectors: Vectors, count: int) -> Vectors:
    """The centres of `count` clusters, each of length 1: spherical k-means from far-apart points."""
    centres = [vectors.mean(0) / np.linalg.norm(vectors.mean(0))]
    while len(centres) < count:
        nearest = (vectors @ np.array(centres).T).max(1)
        centres.append(vectors[int(np.argmin(nearest))])
    found = np.array(centres, np.float32)
    for _ in range(MEANS_STEPS):
        owner = (vectors @ found.T).argmax(1)
        moved = found.copy()
        for index in range(count):
            if (members := vectors[owner == index]).size:
                centre = members.mean(0)
                moved[index] = centre / np.linalg.norm(centre)
        if np.allclose(moved, found, atol=1e-6):
            break
        found = moved
    return found


def _rounded(vector: Vectors) -> tuple[float, ...]:
    return tuple(round(float(value), DIGITS) for value in vector)


__all__ = ["InvalidPrompts", "Report", "fitted", "logistic", "read_prompts", "report"]
