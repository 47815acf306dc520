"""A CLIP or SigLIP with both parts, for queries. Its images are prepared as the worker's engine does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import AutoConfig, AutoTokenizer, CLIPTextModelWithProjection, SiglipTextModel

from contracts.errors import SettingsError
from search.embedder import Rgb
from worker.engine import clip_source, embedding
from worker.engine.clip_source import BROKEN
from worker.engine.device import pick
from worker.engine.errors import ModelLoadError
from worker.engine.hub import refusal

TEXTS: Final = {"clip": CLIPTextModelWithProjection, "siglip": SiglipTextModel}
"""The text part of each kind of model."""
BATCH_PIXELS: Final = 2**21
"""Pixels of one batch: 24 MiB in float32."""


class ClipModel:
    """The `Clip` on this machine's processor.

    `variable` is the setting that names it. Raises `SettingsError` for a model that cannot be loaded.
    """

    def __init__(self, setting: str, threads: int = 1, variable: str = "DARKROOM_CLIP") -> None:
        if not setting:
            raise SettingsError(f"{variable} must name the CLIP or SigLIP that the workers have.")
        torch.set_num_threads(threads)
        try:
            source = clip_source.read(setting)
            self._embedder = embedding.load(source, pick("cpu"))
            self._text, self._tokenizer = _text_part(source)
            self.name = source.identity
            self.dimensions = self.texts(["a"]).shape[1]
            images = self.images([np.zeros((64, 64, 3), np.uint8)])
        except ModelLoadError as error:
            # The worker's engine knows one setting that names a CLIP.
            raise SettingsError(str(error).replace("DARKROOM_CLIP", variable)) from error
        if images.shape[1] != self.dimensions:
            raise SettingsError(
                f"{variable}={setting}: its texts have {self.dimensions} dimensions, its images {images.shape[1]}."
            )

    def texts(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """The embeddings of texts, (texts, dimensions), each of length 1. Longer texts are cut."""
        tokens = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self._text.config.max_position_embeddings,
            return_tensors="pt",
        )
        wanted = {name: tokens[name] for name in self._inputs if name in tokens}
        with torch.inference_mode():
            output = self._text(**wanted)
        found = getattr(output, "text_embeds", None)
        vectors = output.pooler_output if found is None else found
        return _half(vectors)

    def images(self, images: Sequence[Rgb]) -> NDArray[np.float16]:
        """The embeddings of images, each (height, width, 3): (images, dimensions), each of length 1."""
        found: dict[int, torch.Tensor] = {}
        with torch.inference_mode():
            for places in batches([image.shape for image in images]):
                levels = torch.from_numpy(np.stack([images[place] for place in places])).permute(0, 3, 1, 2)
                found |= zip(places, self._embedder.embed(levels.float()), strict=True)
        return _half(torch.stack([found[place] for place in range(len(images))]))

    @property
    def _inputs(self) -> tuple[str, ...]:
        # SigLIP was trained without a mask: it attends to its padding.
        is_siglip = isinstance(self._text, SiglipTextModel)
        return ("input_ids",) if is_siglip else ("input_ids", "attention_mask")


def _text_part(source: clip_source.ClipSource) -> tuple[Any, Any]:
    """The text part and its tokenizer. Raises `ModelLoadError`."""
    try:
        whole: Any = AutoConfig.from_pretrained(source.folder, local_files_only=True)
        config = whole.text_config
        if whole.model_type == "clip":
            # The text part's own value is not used by the whole model, and may be another.
            config.projection_dim = whole.projection_dim
        tokenizer: Any = AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
    except BROKEN as error:
        raise refusal(f"DARKROOM_CLIP={source.setting}: its text part cannot be loaded", error) from error
    return embedding.part_of(source, TEXTS[whole.model_type], config), tokenizer


def batches(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Which images share a call of the network: places in `shapes` of one shape (height, width, channels),
    with at most `BATCH_PIXELS` in all. Pure."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(place)
    found = []
    for (height, width, *_), places in by_shape.items():
        size = max(1, BATCH_PIXELS // (height * width))
        found += [places[begin : begin + size] for begin in range(0, len(places), size)]
    return found


def _half(vectors: torch.Tensor) -> NDArray[np.float16]:
    halves: NDArray[np.float16] = F.normalize(vectors.float()).half().numpy().astype("<f2")
    return halves
