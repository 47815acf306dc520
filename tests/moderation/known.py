"""Lists and pictures for the tests of layer 3. All are harmless: patterns of colour."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contracts.ports.picture_judge import PictureToJudge

Rgb = NDArray[np.uint8]


def pattern(seed: int, side: int = 128) -> Rgb:
    """A picture with shapes of all sizes, (side, side, 3)."""
    random = np.random.default_rng(seed)
    levels = np.zeros((side, side, 3))
    for cells in (4, 8, 16):
        small = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        levels += np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
    return (levels / 3).astype(np.uint8)


def png(rgb: Rgb) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG")
    return file.getvalue()


def picture(rgb: Rgb, *, embedding: bytes | None = None, clip: str = "") -> PictureToJudge:
    return PictureToJudge(rgb.tobytes(), rgb.shape[1], rgb.shape[0], png(rgb), "acme", embedding, clip)


def csv_of(folder: Path, *files: bytes, name: str = "known.csv") -> Path:
    """A list of the SHA-256 of files, as `threatexchange` writes it."""
    rows = [f"Samples,sha256,{hashlib.sha256(each).hexdigest()},WORTH_INVESTIGATING," for each in files]
    path = folder / name
    path.write_text("\n".join(["collab,signal_type,signal_str,category,tags", *rows, ""]))
    return path
