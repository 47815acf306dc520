"""A head: a small classifier on the embedding that a picture has in any case.

The file is JSON and names the category, and the CLIP whose embeddings it was trained on. An embedding of any
other model, or of another revision of the same, says nothing to it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from contracts.documents import Frozen
from contracts.moderation import Category, Finding
from contracts.ports.picture_judge import PictureToJudge
from moderation.policy import InvalidPolicy

MAX_HEAD_BYTES: Final = 20_000_000
FINDS_FROM: Final = 0.01
"""Lower scores are no finding: they would fill every verdict."""
DIGITS: Final = 4

Floats = NDArray[np.float32]


class Layer(Frozen):
    """One layer: `weights` has a row for each of its inputs, and a column for each of its outputs."""

    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]


class HeadFile(Frozen):
    """The file of a head on pictures. Between two layers, negative values become zero."""

    kind: Literal["pictures"]
    category: Category
    clip: Annotated[str, Field(pattern=r"^[^@\s]+@\S+$")]
    """The model of the embeddings, as `name@revision`."""
    mean: tuple[float, ...]
    """Is taken from an embedding first."""
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=4)]
    scale: Annotated[float, Field(gt=0)] = 1.0
    shift: float = 0.0
    """Calibration: the score is the logistic function of `scale * output + shift` (Platt 1999)."""
    note: str = ""
    """What it was trained on, and how well it does."""

    @model_validator(mode="after")
    def _fit(self) -> HeadFile:
        inputs = len(self.mean)
        for number, layer in enumerate(self.layers):
            outputs = len(layer.bias)
            if len(layer.weights) != inputs or any(len(row) != outputs for row in layer.weights):
                raise ValueError(f"layers.{number}: its weights are not {inputs} rows of {outputs}")
            inputs = outputs
        if inputs != 1:
            raise ValueError("the last layer has more than one output")
        return self


class PictureHead:
    """A head, ready to score. It is the `Looker` of one file."""

    def __init__(self, file: HeadFile, title: str) -> None:
        """`title` names the head in findings."""
        self.category = file.category
        self.clip = file.clip
        self._title = title
        self._mean = np.asarray(file.mean, np.float32)
        self._layers = [
            (np.asarray(each.weights, np.float32), np.asarray(each.bias, np.float32)) for each in file.layers
        ]
        self._calibration = (file.scale, file.shift)

    def scores(self, vectors: Floats) -> Floats:
        """The score of each embedding, from (N, D) to (N,), each from 0 to 1. Raises `ValueError` for another D."""
        outputs = forward(vectors - self._mean, self._layers)
        scale, shift = self._calibration
        return logistic(scale * outputs + shift)

    def look(self, picture: PictureToJudge) -> list[Finding]:
        """What the head says of the picture. Raises `ValueError` for one without an embedding of its model."""
        if picture.embedding is None or picture.clip != self.clip:
            raise ValueError(f"the picture has no embedding of {self.clip}")
        vector = np.frombuffer(picture.embedding, "<f2").astype(np.float32)
        score = float(self.scores(vector[None])[0])
        if score < FINDS_FROM:
            return []
        return [
            Finding(layer="pictures", category=self.category, score=round(score, DIGITS), source=self._title)
        ]


def read_head(path: Path, clip: str) -> PictureHead:
    """The head in a file. `clip` names the model of the embeddings that pictures have; empty: none.

    Raises `InvalidPolicy`, which names the file.
    """
    try:
        if path.stat().st_size > MAX_HEAD_BYTES:
            raise InvalidPolicy(f"{path} is larger than {MAX_HEAD_BYTES} bytes")
        file = HeadFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidPolicy(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InvalidPolicy(f"{path} is no head on pictures: {where}: {first['msg']}") from None
    if not clip:
        raise InvalidPolicy(f"{path} needs embeddings of {file.clip}: set DARKROOM_CLIP on the workers")
    if file.clip != clip:
        raise InvalidPolicy(
            f"{path} was trained on embeddings of {file.clip}, and the workers have {clip}: fit it again"
        )
    return PictureHead(file, f"{path.name} on {file.clip}")


def forward(inputs: Floats, layers: list[tuple[Floats, Floats]]) -> Floats:
    """The outputs (N,) of the layers for `inputs` (N, D)."""
    values = inputs
    for number, (weights, bias) in enumerate(layers):
        values = values @ weights + bias
        if number < len(layers) - 1:
            values = np.maximum(values, 0)
    return values[:, 0]


def logistic(values: Floats) -> Floats:
    """The logistic function of each value."""
    bounded = np.clip(values, -60, 60)
    return (1 / (1 + np.exp(-bounded))).astype(np.float32)


def rounded(values: NDArray[np.floating]) -> list[float]:
    """Numbers for the file, with as many digits as matter."""
    return [
        0.0 if not each else round(each, DIGITS - 1 - math.floor(math.log10(abs(each))))
        for each in values.tolist()
    ]
