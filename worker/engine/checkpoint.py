"""Checks of a model's folder before anything is loaded: it must be complete, safe and of a supported kind."""

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
"""The pipeline classes that the engine runs: a UNet that predicts noise for latents, CLIP texts, a VAE."""
LIBRARIES: Final = ("diffusers", "transformers")
"""The libraries that a component may come from."""
EIGHT_BIT: Final = ("unet", "text_encoder", "text_encoder_2")
"""The components to quantise. The VAE is not one: it would lose more quality than it saves."""
INT8_BYTES: Final = 1.03
"""Bytes of a weight in eight bits, with its share of the scales."""
_WITHOUT_WEIGHTS: Final = ("scheduler", "tokenizer", "tokenizer_2", "feature_extractor")
_UNUSED: Final = ("safety_checker", "feature_extractor", "image_encoder")
_NEEDED: Final = ("unet", "vae", "scheduler", "tokenizer", "text_encoder")
_PICKLES: Final = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}
_LARGEST_HEADER: Final = 100_000_000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The contents of a model's folder.

    `parameters` counts the parameters of each component. `matrices` counts those that belong to
    linear and convolution layers. `stored_bytes` is the size of all weight files. `variant` is
    `fp16` or None.
    """

    folder: Path
    variant: str | None
    parameters: dict[str, int]
    stored_bytes: int
    matrices: dict[str, int]

    def weights_bytes(self, bytes_per_parameter: float) -> int:
        """Return the size of all weights, at so many bytes each."""
        return int(sum(self.parameters.values()) * bytes_per_parameter)

    def eight_bit_bytes(self, bytes_per_parameter: float) -> int:
        """Return the size of all weights with the matrices of UNet and text encoders in eight bits.

        The other weights have `bytes_per_parameter` bytes each. The scales are included.
        """
        quantised = sum(count for name, count in self.matrices.items() if name in EIGHT_BIT)
        return self.weights_bytes(bytes_per_parameter) - int(quantised * (bytes_per_parameter - INT8_BYTES))


def read(folder: Path) -> Checkpoint:
    """Check every file that will be loaded.

    Raises `ModelLoadError`, which names the file and what is wrong with it.
    """
    index = _index(folder)
    class_name = index.get("_class_name")
    if class_name not in PIPELINES:
        raise ModelLoadError(
            f"{folder}: a {class_name} does not fit the engine, which runs {' and '.join(PIPELINES)}."
        )
    variant = "fp16" if any(folder.glob("unet/*.fp16.safetensors")) else None
    parameters: dict[str, int] = {}
    matrices: dict[str, int] = {}
    stored = 0
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or entry[0] is None or name in _UNUSED:
            continue
        if entry[0] not in LIBRARIES:
            raise ModelLoadError(f"{folder}: {name} wants code of its own ({entry[0]}), which is not run.")
        if not (folder / name).is_dir():
            raise ModelLoadError(f"{folder / name} is missing; model_index.json names it.")
        if name in _WITHOUT_WEIGHTS:
            continue
        count = matrix_count = 0
        for path in weight_files(folder / name, variant):
            tensors = header(path)
            count += sum(_numel(tensor["shape"]) for tensor in tensors.values())
            matrix_count += sum(
                _numel(tensor["shape"]) for key, tensor in tensors.items() if _is_matrix(key, tensor["shape"])
            )
            stored += path.stat().st_size
        parameters[name], matrices[name] = count, matrix_count
    missing = [name for name in _NEEDED if not (index.get(name) or [None])[0]]
    if missing:
        raise ModelLoadError(f"{folder / 'model_index.json'} names no {missing[0]}.")
    return Checkpoint(folder, variant, parameters, stored, matrices)


def header(path: Path) -> dict[str, dict[str, Any]]:
    """Return the header of a safetensors file: `dtype`, `shape` and `data_offsets` by tensor name.

    The format: https://huggingface.co/docs/safetensors. Raises `ModelLoadError` if the file is no
    safetensors file, if its size does not fit the header, or if it has a dtype that the engine does
    not read.
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
    end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    if 8 + length + end != size:
        raise ModelLoadError(f"{path} was cut short: it has {size} bytes of {8 + length + end}.")
    unknown = {tensor["dtype"] for tensor in tensors.values()} - set(_BYTES)
    if unknown:
        raise ModelLoadError(
            f"{path} holds numbers of type {min(unknown)}; the engine reads {', '.join(_BYTES)}."
        )
    return tensors


def config(folder: Path) -> dict[str, Any]:
    """Return a component's `config.json`. Raises `ModelLoadError` if it is missing or invalid."""
    return _json(folder / "config.json")


def file_digest(path: Path) -> str:
    """Return a digest of the file's contents, as 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    if not path.is_file():
        raise ModelLoadError(f"{folder} is no model in diffusers format: it has no model_index.json.")
    return _json(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError:
        raise ModelLoadError(f"{path} is missing.") from None
    except ValueError:
        raise ModelLoadError(f"{path} is no JSON.") from None
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path} is no JSON object.")
    return content


def weight_files(folder: Path, variant: str | None) -> Iterator[Path]:
    """Return the files of a component's weights: one file, or the shards that its index names.

    Raises `ModelLoadError` if there are none, or only pickles.
    """
    if not (folder / "config.json").is_file():
        raise ModelLoadError(f"{folder / 'config.json'} is missing.")
    files = sorted(folder.glob("*.safetensors"))
    chosen = [path for path in files if variant and f".{variant}." in path.name]
    chosen = chosen or [path for path in files if path.name.count(".") == 1]
    if not chosen:
        pickles = [path for path in sorted(folder.iterdir()) if path.suffix in _PICKLES]
        if pickles:
            raise ModelLoadError(
                f"{pickles[0]} is a pickle, which can run code when it is loaded: only safetensors are. "
                "Convert it with save_pretrained(..., safe_serialization=True)."
            )
        raise ModelLoadError(f"{folder} has no weights (*.safetensors).")
    for index in folder.glob("*.safetensors.index*.json"):
        shards = set(_json(index).get("weight_map", {}).values())
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            raise ModelLoadError(f"{folder / missing[0]} is missing; {index.name} names it.")
    yield from chosen


def _is_matrix(name: str, shape: list[int]) -> bool:
    """Whether a tensor is the weight of a linear or convolution layer. Embedding tables are not."""
    return len(shape) in (2, 4) and ".embeddings." not in name


def _numel(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
