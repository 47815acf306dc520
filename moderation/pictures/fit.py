"""Fits a head to labelled embeddings: a network of one hidden layer, with numpy alone.

Adam (Kingma and Ba 2015) with decoupled weight decay (Loshchilov and Hutter 2019), full precision. Some pictures
are kept apart: the weights never see them, and calibration and figures are theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moderation.pictures.head import Floats, HeadFile, Layer, forward, logistic, rounded

HIDDEN: Final = 256
STEPS: Final = 9_000
MIN_STEPS: Final = 1_000
"""One step for each picture, within these bounds."""
BATCH: Final = 512
RATE: Final = 3e-3
DECAY: Final = 0.01
NOISE: Final = 0.02
"""Standard deviation of what is added to an embedding in training, whose length is 1."""
KEPT_APART: Final = 5
"""One picture in so many is kept apart."""
MIN_EACH: Final = 20
"""Pictures of each label that a fit needs."""

Layers = list[tuple[Floats, Floats]]


class TooFewPictures(ValueError):
    """There are not enough labelled pictures."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head, and how well it does on the pictures kept apart."""

    head: HeadFile
    auc: float
    roc: tuple[tuple[float, float, float], ...]
    """Threshold, recall and share of false alarms, for each threshold of a hundredth."""

    def threshold(self, recall: float) -> tuple[float, float, float]:
        """The highest threshold with at least this recall, as in `roc`. The lowest if there is none."""
        return next((each for each in reversed(self.roc) if each[1] >= recall), self.roc[0])


def fit(
    vectors: Floats,
    labels: NDArray[np.bool_],
    category: str,
    clip: str,
    seed: int = 0,
    steps: int | None = None,
) -> Fitted:
    """Fit a head to embeddings (N, D), float32, of which `labels` (N,) are of the category.

    Raises `TooFewPictures`.
    """
    positive = int(labels.sum())
    if min(positive, len(labels) - positive) < MIN_EACH:
        raise TooFewPictures(
            f"a head needs {MIN_EACH} pictures of {category} and as many others; there are {positive} and {len(labels) - positive}"
        )
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    apart, learnt = order[::KEPT_APART], np.delete(order, np.s_[::KEPT_APART])
    mean = vectors[learnt].mean(0)
    layers = _trained(
        vectors[learnt] - mean, labels[learnt], random, steps or min(STEPS, max(MIN_STEPS, len(labels)))
    )
    scale, shift = _platt(forward(vectors[apart] - mean, layers), labels[apart])
    scores = logistic(scale * forward(vectors[apart] - mean, layers) + shift)
    roc = roc_of(scores, labels[apart])
    auc = auc_of(scores, labels[apart])
    note = f"fitted to {positive} pictures of {category} and {len(labels) - positive} others; AUC {auc:.4f} on those kept apart"
    head = HeadFile(
        kind="pictures",
        category=category,
        clip=clip,
        mean=tuple(rounded(mean)),
        layers=tuple(
            Layer(weights=tuple(tuple(rounded(row)) for row in weights), bias=tuple(rounded(bias)))
            for weights, bias in layers
        ),
        scale=round(scale, 4),
        shift=round(shift, 4),
        note=note,
    )
    return Fitted(head, auc, roc)


def roc_of(scores: Floats, labels: NDArray[np.bool_]) -> tuple[tuple[float, float, float], ...]:
    """Threshold, recall and share of false alarms, at each hundredth."""
    return tuple(
        (
            each / 100,
            float((scores[labels] >= each / 100).mean()),
            float((scores[~labels] >= each / 100).mean()),
        )
        for each in range(1, 100)
    )


def auc_of(scores: Floats, labels: NDArray[np.bool_]) -> float:
    """The share of pairs that are in order; equal scores count half."""
    lower = np.sort(scores[~labels])
    below = np.searchsorted(lower, scores[labels], "left")
    upto = np.searchsorted(lower, scores[labels], "right")
    return float(((below + upto) / 2).mean() / len(lower))


def _trained(vectors: Floats, labels: NDArray[np.bool_], random: np.random.Generator, steps: int) -> Layers:
    """Both labels weigh the same, however many pictures they have."""
    size = vectors.shape[1]
    parameters = [
        (random.normal(size=(size, HIDDEN)) * (2 / size) ** 0.5).astype(np.float32),
        np.zeros(HIDDEN, np.float32),
        (random.normal(size=(HIDDEN, 1)) * (1 / HIDDEN) ** 0.5).astype(np.float32),
        np.zeros(1, np.float32),
    ]
    first = [np.zeros_like(each) for each in parameters]
    second = [np.zeros_like(each) for each in parameters]
    yes, no = np.flatnonzero(labels), np.flatnonzero(~labels)
    truth = np.repeat(np.array([1, 0], np.float32), BATCH // 2)
    unit = float(np.sqrt((vectors**2).mean()))  # inputs of variance one
    for step in range(1, steps + 1):
        rows = np.concatenate([random.choice(yes, BATCH // 2), random.choice(no, BATCH // 2)])
        inputs = vectors[rows] + NOISE * random.normal(size=(BATCH, size)).astype(np.float32) / size**0.5
        inputs = inputs / unit
        weights, bias, last, last_bias = parameters
        hidden = np.maximum(inputs @ weights + bias, 0)
        error = (logistic((hidden @ last + last_bias)[:, 0]) - truth)[:, None] / BATCH
        back = (error @ last.T) * (hidden > 0)
        gradients = [inputs.T @ back, back.sum(0), hidden.T @ error, error.sum(0)]
        rate = RATE * min(1.0, step / 100) * (1 - step / steps)
        for at, gradient in enumerate(gradients):
            first[at] = 0.9 * first[at] + 0.1 * gradient
            second[at] = 0.999 * second[at] + 0.001 * gradient**2
            move = (first[at] / (1 - 0.9**step)) / (np.sqrt(second[at] / (1 - 0.999**step)) + 1e-8)
            decay = DECAY * parameters[at] if parameters[at].ndim > 1 else 0
            parameters[at] = (parameters[at] - rate * (move + decay)).astype(np.float32)
    weights, bias, last, last_bias = parameters
    return [((weights / unit).astype(np.float32), bias), (last, last_bias)]


def _platt(outputs: Floats, labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Scale and shift that make a probability of the outputs, both labels weighing the same. Newton's method.

    Targets are a little off 0 and 1, as Platt's, so that a perfect head stays finite.
    """
    positive, negative = int(labels.sum()), int((~labels).sum())
    truth = np.where(labels, (positive + 1) / (positive + 2), 1 / (negative + 2))
    weight = np.where(labels, 0.5 / positive, 0.5 / negative)
    inputs = np.stack([outputs.astype(np.float64), np.ones(len(outputs))], 1)
    found = np.array([1.0, 0.0])
    for _ in range(50):
        guess = 1 / (1 + np.exp(-np.clip(inputs @ found, -60, 60)))
        gradient = inputs.T @ (weight * (guess - truth))
        curvature = (inputs.T * (weight * guess * (1 - guess))) @ inputs + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        found -= np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-6:
            break
    return max(float(found[0]), 1e-3), float(found[1])
