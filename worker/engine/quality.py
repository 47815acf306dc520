"""How far the pictures of cheaper arithmetic are from the model's own in single precision, and the floors below which it is refused."""

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
EQUAL_DB: Final = 100.0
"""What counts for pictures without any difference."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over a set of pictures: `psnr_db`, and `clip`, the cosine of their CLIP embeddings, where a CLIP is at hand."""

    psnr_db: float
    clip: float | None = None

    def __str__(self) -> str:
        return f"{self.psnr_db:.1f} dB" + ("" if self.clip is None else f" and {self.clip:.3f} by CLIP")


@dataclass(frozen=True, slots=True)
class Floor:
    """The least that is served."""

    psnr_db: float
    clip: float = 0.0

    def holds(self, quality: Quality) -> bool:
        return quality.psnr_db >= self.psnr_db and (quality.clip is None or quality.clip >= self.clip)


def prompts(path: Path | None, setting: str) -> list[str]:
    """The prompts of the file, one a line; without a file four of ours. Raises `ModelLoadError` that names the `setting`."""
    if path is None:
        return list(GOLDEN)
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{setting}={path}: {type(error).__name__}") from None
    if not found:
        raise ModelLoadError(f"{setting}={path} holds no prompt.")
    return found


def psnr_db(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio of two pictures of one size, dB."""
    pair = [np.frombuffer(each.rgb, np.uint8).astype(np.float64) for each in (one, other)]
    error = float(((pair[0] - pair[1]) ** 2).mean())
    return EQUAL_DB if error == 0 else min(EQUAL_DB, float(10 * np.log10(255**2 / error)))


class Clip:
    """A CLIP that looks at pictures (Radford et al. 2021). `source`: a folder or a hub id. Raises `ModelLoadError`."""

    def __init__(self, source: str) -> None:
        try:
            how: dict[str, Any] = CLIPImageProcessor.get_image_processor_dict(source)[0]
            self._model = CLIPModel.from_pretrained(source, use_safetensors=True).float().eval()
            self._mean, self._deviation = (
                torch.tensor(how[name]).view(1, -1, 1, 1) for name in ("image_mean", "image_std")
            )
        except (*hub.FAILURES, KeyError, RuntimeError) as error:
            raise hub.refusal(f"DARKROOM_QUALITY_CLIP={source} cannot be loaded", error) from error
        self._side: int = self._model.config.vision_config.image_size

    def similarity(self, one: Sequence[Pixels], other: Sequence[Pixels]) -> list[float]:
        """Cosine of the embeddings, pair by pair: 1 is the same to its eyes."""
        with torch.inference_mode():
            cosines: list[float] = (self._embedded(one) * self._embedded(other)).sum(1).tolist()
        return cosines

    def _embedded(self, pictures: Sequence[Pixels]) -> torch.Tensor:
        data = np.stack([np.frombuffer(p.rgb, np.uint8).reshape(p.height, p.width, 3) for p in pictures])
        pixels = torch.from_numpy(data).permute(0, 3, 1, 2).float() / 255
        if pixels.shape[-2:] != (self._side, self._side):
            pixels = F.interpolate(pixels, (self._side, self._side), mode="bicubic", antialias=True)
        features: torch.Tensor = self._model.get_image_features(
            pixel_values=(pixels - self._mean) / self._deviation
        ).pooler_output
        return F.normalize(features)


def measure(
    before: Sequence[Pixels | ImageFault], after: Sequence[Pixels | ImageFault], clip: Clip | None = None
) -> Quality:
    """Pictures against their originals. Raises `ModelLoadError` when one is no picture."""
    pairs = [
        (one, other)
        for one, other in zip(before, after, strict=True)
        if isinstance(one, Pixels) and isinstance(other, Pixels)
    ]
    if len(pairs) < len(before):
        raise ModelLoadError("A golden prompt made no picture: see the engine's log.")
    mean = sum(psnr_db(*pair) for pair in pairs) / len(pairs)
    if clip is None:
        return Quality(mean)
    cosines = clip.similarity(*zip(*pairs, strict=True))
    return Quality(mean, sum(cosines) / len(cosines))


def gate(quality: Quality, floor: Floor) -> None:
    """Raises `ModelLoadError` below the floor."""
    if not floor.holds(quality):
        raise ModelLoadError(
            f"The quantised model's pictures are {quality} from its own in float32, below "
            f"DARKROOM_QUALITY_FLOOR_DB={floor.psnr_db:g} or DARKROOM_QUALITY_FLOOR_CLIP={floor.clip:g}. A file of prompts in "
            "DARKROOM_CALIBRATION_PROMPTS lets the layers that suffer most stay as they are."
        )
