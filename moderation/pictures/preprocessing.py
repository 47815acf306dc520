"""How pixels become the input of a classifier in transformers' format, as `preprocessor_config.json` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rgb = NDArray[np.uint8]
Floats = NDArray[np.float32]
Size = tuple[int, int] | int
"""A height and a width, or the length of the shorter side."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """`(level * scale - mean) / std`, of a picture that was resized to `resize` and cropped to `crop`. None: it was not."""

    resize: Size | None
    crop: tuple[int, int] | None
    resample: int
    scale: float
    mean: Floats
    std: Floats

    @classmethod
    def of(cls, config: dict[str, Any]) -> Preprocessing:
        """What a configuration says. Raises `ValueError`, `TypeError` or `KeyError` for one that cannot be used."""
        crop = config.get("crop_size") if config.get("do_center_crop") else None
        resize = _size(config["size"]) if config.get("do_resize", True) else None
        if (share := config.get("crop_pct")) and isinstance(resize, int):
            resize = round(resize / share)  # as ConvNeXT's processor crops
        plain = not config.get("do_normalize", True)
        return cls(
            resize=resize,
            crop=None if crop is None else _rectangle(crop),
            resample=int(config.get("resample", Image.Resampling.BILINEAR)),
            scale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
            mean=np.asarray([0.0] * 3 if plain else config["image_mean"], np.float32),
            std=np.asarray([1.0] * 3 if plain else config["image_std"], np.float32),
        )

    def apply(self, rgb: Rgb) -> Floats:
        """The input (1, 3, h, w) of a picture (height, width, 3)."""
        image = Image.fromarray(rgb)
        if self.resize is not None:
            image = image.resize(self._resized(image.width, image.height), self.resample)
        if self.crop is not None:
            height, width = self.crop
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        levels = (np.asarray(image, np.float32) * self.scale - self.mean) / self.std
        return np.ascontiguousarray(levels.transpose(2, 0, 1)[None], np.float32)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        short = self.resize or 0
        long = int(short * max(width, height) / min(width, height))
        return (short, long) if width <= height else (long, short)


def _size(size: Any) -> Size:
    if isinstance(size, int):
        return size
    return int(size["shortest_edge"]) if "shortest_edge" in size else _rectangle(size)


def _rectangle(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size["height"]), int(size["width"]))
