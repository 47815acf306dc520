"""A model's folder: that it is whole, safe and of a kind that fits, told before anything is loaded."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from worker.engine.errors import ModelLoadError

PIPELINES: Final = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
"""Families that fit the engine: a UNet that predicts noise for latents, CLIP texts, and a VAE."""
LIBRARIES: Final = ("diffusers", "transformers")
EIGHT_BIT: Final = ("unet", "text_encoder", "text_encoder_2")
"""Components that quantisation is for: the decoder suffers more than it gains."""
INT8_BYTES: Final = 1.03
"""Of a weight in eight bits, with its share of the scales."""
_WITHOUT_WEIGHTS: Final = ("scheduler", "tokenizer", "tokenizer_2", "feature_extractor")
_UNUSED: Final = ("safety_checker", "feature_extractor", "image_encoder")
_NEEDED: Final = ("unet", "vae", "scheduler", "tokenizer", "text_encoder")
_PICKLES: Final = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}
_LARGEST_HEADER: Final = 100_000_000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the folder holds: `parameters` by component, `stored_bytes` of them all; of the `parameters`, those of `matrices`
    belong to linear and convolution layers."""

    folder: Path
    variant: str | None
    parameters: dict[str, int]
    stored_bytes: int
    matrices: dict[str, int]

    def weights_bytes(self, bytes_per_parameter: float) -> int:
        """All weights, each in so many bytes."""
        return int(sum(self.parameters.values()) * bytes_per_parameter)

    def eight_bit_bytes(self, bytes_per_parameter: float) -> int:
        """As `weights_bytes`, with the matrices of UNet and text encoders in one byte a number, and a little for their scales."""
        in_eight = sum(count for name, count in self.matrices.items() if name in EIGHT_BIT)
        return self.weights_bytes(bytes_per_parameter) - int(in_eight * (bytes_per_parameter - INT8_BYTES))


def read(folder: Path) -> Checkpoint:
    """Look at every file that will be loaded. Raises `ModelLoadError` that names the file and what is wrong with it."""
    index = _index(folder)
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise ModelLoadError(
            f"{folder}: a {kind} does not fit the engine, which runs {' and '.join(PIPELINES)}."
        )
    variant = "fp16" if any(folder.glob("unet/*.fp16.safetensors")) else None
    parameters: dict[str, int] = {}
    matrices: dict[str, int] = {}
    stored = 0
    for name, named in index.items():
        if name.startswith("_") or not isinstance(named, list) or named[0] is None or name in _UNUSED:
            continue
        if named[0] not in LIBRARIES:
            raise ModelLoadError(f"{folder}: {name} wants code of its own ({named[0]}), which is not run.")
        if not (folder / name).is_dir():
            raise ModelLoadError(f"{folder / name} is missing; model_index.json names it.")
        if name in _WITHOUT_WEIGHTS:
            continue
        count = inner = 0
        for path in _weights(folder / name, variant):
            tensors = header(path)
            count += sum(_numel(each["shape"]) for each in tensors.values())
            inner += sum(
                _numel(each["shape"]) for key, each in tensors.items() if _is_matrix(key, each["shape"])
            )
            stored += path.stat().st_size
        parameters[name], matrices[name] = count, inner
    missing = [name for name in _NEEDED if not (index.get(name) or [None])[0]]
    if missing:
        raise ModelLoadError(f"{folder / 'model_index.json'} names no {missing[0]}.")
    return Checkpoint(folder, variant, parameters, stored, matrices)


def header(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors that a safetensors file says it holds, checked against its size.

    The format: https://huggingface.co/docs/safetensors. Raises `ModelLoadError`.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LARGEST_HEADER
        if length >= min(_LARGEST_HEADER, size):
            raise ModelLoadError(f"{path} is no safetensors file, or was cut short.")
        try:
            tensors: dict[str, Any] = json.loads(file.read(length))
        except ValueError:
            raise ModelLoadError(f"{path} is no safetensors file: its header cannot be read.") from None
    tensors.pop("__metadata__", None)
    end = max((each["data_offsets"][1] for each in tensors.values()), default=0)
    if 8 + length + end != size:
        raise ModelLoadError(f"{path} was cut short: it has {size} bytes of {8 + length + end}.")
    strange = {each["dtype"] for each in tensors.values()} - set(_BYTES)
    if strange:
        raise ModelLoadError(
            f"{path} holds numbers of type {min(strange)}; the engine reads {', '.join(_BYTES)}."
        )
    return tensors


def config(folder: Path) -> dict[str, Any]:
    """A component's `config.json`. Raises `ModelLoadError`."""
    return _json(folder / "config.json")


def digest(folder: Path) -> str:
    """16 hex digits of everything in the folder that is loaded."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors", ".txt"):
            total.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """16 hex digits of the file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    if not path.is_file():
        raise ModelLoadError(f"{folder} is no model in diffusers format: it has no model_index.json.")
    return _json(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text())
    except OSError:
        raise ModelLoadError(f"{path} is missing.") from None
    except ValueError:
        raise ModelLoadError(f"{path} is no JSON.") from None
    if not isinstance(read, dict):
        raise ModelLoadError(f"{path} is no JSON object.")
    return read


def _weights(folder: Path, variant: str | None) -> Iterator[Path]:
    """The files of a component's weights: one, or the shards that its index names."""
    if not (folder / "config.json").is_file():
        raise ModelLoadError(f"{folder / 'config.json'} is missing.")
    found = sorted(folder.glob("*.safetensors"))
    chosen = [path for path in found if variant and f".{variant}." in path.name]
    chosen = chosen or [path for path in found if path.name.count(".") == 1]
    if not chosen:
        pickled = [path for path in sorted(folder.iterdir()) if path.suffix in _PICKLES]
        if pickled:
            raise ModelLoadError(
                f"{pickled[0]} is a pickle, which can run code when it is loaded: only safetensors are. "
                "Convert it with save_pretrained(..., safe_serialization=True)."
            )
        raise ModelLoadError(f"{folder} has no weights (*.safetensors).")
    for index in folder.glob("*.safetensors.index*.json"):
        shards = set(_json(index).get("weight_map", {}).values())
        absent = sorted(shard for shard in shards if not (folder / shard).is_file())
        if absent:
            raise ModelLoadError(f"{folder / absent[0]} is missing; {index.name} names it.")
    yield from chosen


def _is_matrix(name: str, shape: list[int]) -> bool:
    """Whether a tensor is the weight of a linear or convolution layer; those that look up tokens and positions are not."""
    return len(shape) in (2, 4) and ".embeddings." not in name


def _numel(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
