"""Embeddings of finished images, by the vision part of a CLIP or SigLIP.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"; Zhai et
al. 2023, "Sigmoid Loss for Language Image Pre-Training". Two images that show alike things have
vectors of a small angle.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from transformers.utils import logging as transformers_logging

from telemetry.logs import get_logger
from worker.engine.clip_source import BROKEN, SETTING, ClipSource, Preprocessing, features
from worker.engine.device import Device
from worker.engine.errors import ModelLoadError
from worker.engine.hub import refusal
from worker.engine.padded_batch import RecordedNetwork, Recorder, run_padded

LENGTH_TOLERANCE: Final = 0.01
"""How far the length of a vector may be from 1 after it was rounded to half precision."""

log = get_logger(__name__)


class ImageEmbedder(Protocol):
    """Embeds images where they are decoded."""

    @property
    def identity(self) -> str:
        """The model and its revision, `name@revision`."""
        ...

    def embed(self, levels: torch.Tensor) -> torch.Tensor:
        """Return the vectors (B, D), float16 of length 1, of `levels`.

        `levels` is (B, 3, H, W), float32 from 0 to 255, on the engine's device, and stays as it is.
        May raise any exception.
        """
        ...


class ClipEmbedder:
    """The `ImageEmbedder` of a CLIP or SigLIP.

    `fixed_batch` is the number of images in every call of the network; None leaves it open.
    `recorder` records the calls; None runs them eagerly. Arithmetic is in float32 whatever the model
    that draws uses: docs/engine.md has the neighbours that half precision moves.
    """

    def __init__(
        self,
        identity: str,
        network: Any,
        preprocessing: Preprocessing,
        fixed_batch: int | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._identity = identity
        self._preprocessing = preprocessing
        self._fixed_batch = fixed_batch
        call = partial(features, network)
        self._network = call if recorder is None else RecordedNetwork(call, recorder)

    @property
    def identity(self) -> str:
        """The model and its revision, `name@revision`."""
        return self._identity

    def embed(self, levels: torch.Tensor) -> torch.Tensor:
        """Return the vectors (B, D), float16 of length 1, of `levels`, (B, 3, H, W), float32."""
        vectors = run_padded(self._network, self._fixed_batch, self._preprocessing.apply(levels))
        return F.normalize(vectors).half()


def load(
    source: ClipSource, device: Device, fixed_batch: int | None = None, recorder: Recorder | None = None
) -> ClipEmbedder:
    """Load the vision part of a checked model onto the device.

    Raises `ModelLoadError` if the weights do not fit the configuration.
    """
    verbosity = transformers_logging.get_verbosity()
    # The report would list the text part, which is left out on purpose.
    transformers_logging.set_verbosity_error()
    try:
        network, report = source.network.from_pretrained(
            source.folder,
            config=source.config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
        )
    except BROKEN as error:
        raise refusal(f"{SETTING}{source.setting} cannot be loaded", error) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    unfit = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    if unfit:
        raise ModelLoadError(
            f"{SETTING}{source.setting}: its weights do not fit its configuration: {len(unfit)} are missing or of another"
            f" shape, {min(unfit)} first."
        )
    network.requires_grad_(False).eval().to(device.torch_name)
    return ClipEmbedder(source.identity, network, source.preprocessing, fixed_batch, recorder)


def try_embedder(embedder: ImageEmbedder, count: int, side: int, device: Device) -> None:
    """Embed `count` grey images of `side` x `side` pixels. Raises `ModelLoadError` if that fails."""
    levels = torch.full((count, 3, side, side), 127.0, device=device.torch_name)
    with torch.inference_mode():
        vectors = as_bytes(embedder.embed(levels))
    if None in vectors:
        raise ModelLoadError(
            f"{SETTING[:-1]}: {embedder.identity} embeds a grey image as values that are no vector."
        )


def tried(embedder: ImageEmbedder, levels: torch.Tensor) -> torch.Tensor | None:
    """As `embed`; None if it fails. An embedding that fails costs no image."""
    try:
        return embedder.embed(levels)
    except Exception as error:  # noqa: BLE001 - the images are finished, and fine
        log.warning("embedding_failed", error=type(error).__name__, images=len(levels))
        return None


def as_bytes(vectors: torch.Tensor) -> list[bytes | None]:
    """Return each of the vectors (B, D), float16, as bytes; None for one that has not length 1."""
    valid = ((vectors.float().norm(dim=1) - 1).abs() < LENGTH_TOLERANCE).tolist()
    data = vectors.cpu().numpy().astype("<f2")
    return [row.tobytes() if is_valid else None for row, is_valid in zip(data, valid, strict=True)]
