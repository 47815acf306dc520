"""Damage that a picture survives: what a search has to see through.

A view of a picture is cropped, halved, encoded as JPEG, blurred, brighter or noisy. Two views of one
picture are still the same picture.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

SMALLEST_CROP = 0.8
LARGEST_CROP = 1.05


def cropped(pictures: torch.Tensor) -> torch.Tensor:
    """Each picture through a window of its own, 80 to 105 % of a side wide, scaled to the old size."""
    count = len(pictures)
    scale = SMALLEST_CROP + (LARGEST_CROP - SMALLEST_CROP) * torch.rand(count)
    room = (1 - scale).abs()
    window = torch.zeros(count, 2, 3)
    window[:, 0, 0] = window[:, 1, 1] = scale
    window[:, :, 2] = (2 * torch.rand(count, 2) - 1) * room[:, None]
    grid = F.affine_grid(window, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def halved(pictures: torch.Tensor) -> torch.Tensor:
    """Half the size, and back."""
    small = F.interpolate(pictures, scale_factor=0.5, mode="bilinear", antialias=True)
    return F.interpolate(small, pictures.shape[-2:], mode="bicubic")


def as_jpeg(picture: torch.Tensor, quality: int) -> torch.Tensor:
    """One picture (3, h, w) in [0, 1] as JPEG keeps it."""
    levels = picture.mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    with io.BytesIO() as file:
        Image.fromarray(levels).save(file, "JPEG", quality=quality)
        back = np.asarray(Image.open(file))
    return torch.from_numpy(back.astype(np.float32) / 255).permute(2, 0, 1)


def softened(pictures: torch.Tensor) -> torch.Tensor:
    """The mean of each 3 x 3 neighbourhood."""
    return F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)


def light(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, h, w) in [0, 1] with a little noise in half of them: nearly as they are."""
    noisy = pictures + 0.03 * torch.rand(len(pictures), 1, 1, 1) * torch.randn_like(pictures)
    return torch.where(_some(pictures, 0.5), noisy, pictures)


def strong(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, h, w) in [0, 1], each with a damage of its own."""
    first = bool(torch.rand(()) < 0.5)
    if first:
        pictures = _encoded(pictures)
    pictures = torch.where(_some(pictures, 0.75), cropped(pictures), pictures)
    pictures = torch.where(_some(pictures, 0.4), halved(pictures), pictures)
    pictures = torch.where(_some(pictures, 0.25), softened(pictures), pictures)
    if not first:
        pictures = _encoded(pictures)
    contrast = 0.8 + 0.4 * torch.rand(len(pictures), 1, 1, 1)
    brightness = 0.2 * torch.rand(len(pictures), 1, 1, 1) - 0.1
    noise = 0.05 * torch.rand(len(pictures), 1, 1, 1) * torch.randn_like(pictures)
    return (pictures - 0.5) * contrast + 0.5 + brightness + noise


def _some(pictures: torch.Tensor, share: float) -> torch.Tensor:
    return torch.rand(len(pictures), 1, 1, 1) < share


def _encoded(pictures: torch.Tensor) -> torch.Tensor:
    pictures = pictures.clone()
    for i in torch.nonzero(torch.rand(len(pictures)) < 0.5).flatten().tolist():
        pictures[i] = as_jpeg(pictures[i], int(torch.randint(35, 95, ())))
    return pictures
