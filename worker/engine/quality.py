"""The quality of a quantised model: how far its images are from the model's images in single precision.

A model whose quality is below the floors is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPImageProcessor, CLIPModel

from contracts.engine import ImageFault, Pixels
from worker.engine import hub
from worker.engine.errors import ModelLoadError

GOLDEN: Final = (
    "a red apple on a blue background",
    "a photograph of a lighthouse at dusk, waves below",
    "an old man's face, oil painting",
    "a small green car in front of a brick wall",
)
"""The prompts that are judged by default."""
EQUAL_DB: Final = 100.0
"""The PSNR of equal images, and the largest that is reported."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over a set of images: the PSNR, and the cosine of the CLIP embeddings.

    `clip` is None if no CLIP model is configured.
    """

    psnr_db: float
    clip: float | None = None

    def __str__(self) -> str:
        return f"{self.psnr_db:.1f} dB" + ("" if self.clip is None else f" and {self.clip:.3f} by CLIP")


@dataclass(frozen=True, slots=True)
class Floor:
    """The lowest quality that is served."""

    psnr_db: float
    clip: float = 0.0

    def holds(self, quality: Quality) -> bool:
        """Return whether `quality` reaches the floor."""
        return quality.psnr_db >= self.psnr_db and (quality.clip is None or quality.clip >= self.clip)


def prompts(path: Path | None, setting: str) -> list[str]:
    """Return the prompts of a file, one a line; without a file, the golden prompts.

    Raises `ModelLoadError`, which names the `setting`, if the file cannot be read or is empty.
    """
    if path is None:
        return list(GOLDEN)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{setting}={path}: {type(error).__name__}") from None
    if not lines:
        raise ModelLoadError(f"{setting}={path} holds no prompt.")
    return lines


def psnr_db(one: Pixels, other: Pixels) -> float:
    """Return the peak signal-to-noise ratio of two images of one size, in dB, at most `EQUAL_DB`."""
    pair = [np.frombuffer(image.rgb, np.uint8).astype(np.float64) for image in (one, other)]
    error = float(((pair[0] - pair[1]) ** 2).mean())
    return EQUAL_DB if error == 0 else min(EQUAL_DB, float(10 * np.log10(255**2 / error)))


class Clip:
    """A CLIP model that embeds images (Radford et al. 2021).

    `source` is a folder or a hub id. Raises `ModelLoadError` if it cannot be loaded.
    """

    def __init__(self, source: str) -> None:
        try:
            config: dict[str, Any] = CLIPImageProcessor.get_image_processor_dict(source)[0]
            self._model = CLIPModel.from_pretrained(source, use_safetensors=True).float().eval()
            self._mean, self._std = (
                torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("image_mean", "image_std")
            )
        except (*hub.FAILURES, KeyError, RuntimeError) as error:
            raise hub.refusal(f"DARKROOM_QUALITY_CLIP={source} cannot be loaded", error) from error
        self._side: int = self._model.config.vision_config.image_size

    def similarity(self, one: Sequence[Pixels], other: Sequence[Pixels]) -> list[float]:
        """Return the cosine of the embeddings of each pair of images. At 1, CLIP sees no difference."""
        with torch.inference_mode():
            cosines: list[float] = (self._embeds(one) * self._embeds(other)).sum(1).tolist()
        return cosines

    def _embeds(self, images: Sequence[Pixels]) -> torch.Tensor:
        data = np.stack([np.frombuffer(i.rgb, np.uint8).reshape(i.height, i.width, 3) for i in images])
        pixels = torch.from_numpy(data).permute(0, 3, 1, 2).float() / 255
        if pixels.shape[-2:] != (self._side, self._side):
            pixels = F.interpolate(pixels, (self._side, self._side), mode="bicubic", antialias=True)
        features: torch.Tensor = self._model.get_image_features(
            pixel_values=(pixels - self._mean) / self._std
        ).pooler_output
        return F.normalize(features)


def measure(
    before: Sequence[Pixels | ImageFault], after: Sequence[Pixels | ImageFault], clip: Clip | None = None
) -> Quality:
    """Return the quality of the images `after` quantisation against those `before`.

    Raises `ModelLoadError` if an image is invalid.
    """
    pairs = [
        (one, other)
        for one, other in zip(before, after, strict=True)
        if isinstance(one, Pixels) and isinstance(other, Pixels)
    ]
    if len(pairs) < len(before):
        raise ModelLoadError("A golden prompt made no image: see the engine's log.")
    mean = sum(psnr_db(*pair) for pair in pairs) / len(pairs)
    if clip is None:
        return Quality(mean)
    cosines = clip.similarity(*zip(*pairs, strict=True))
    return Quality(mean, sum(cosines) / len(cosines))


def gate(quality: Quality, floor: Floor) -> None:
    """Raise `ModelLoadError` if `quality` is below the floor."""
    if not floor.holds(quality):
        raise ModelLoadError(
            f"The quantised model's images are {quality} from its own in float32, below "
            f"DARKROOM_QUALITY_FLOOR_DB={floor.psnr_db:g} or DARKROOM_QUALITY_FLOOR_CLIP={floor.clip:g}. A file of prompts in "
            "DARKROOM_CALIBRATION_PROMPTS lets the layers that suffer most stay as they are."
        )
