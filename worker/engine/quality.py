"""How far the pictures of cheaper arithmetic are from the model's own, and the floor below which it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from contracts.engine import ImageFault, Pixels
from worker.engine.errors import CannotLoad

GOLDEN: Final = (
    "a red apple on a blue background",
    "a photograph of a lighthouse at dusk, waves below",
    "an old man's face, oil painting",
    "a small green car in front of a brick wall",
)
EQUAL_DB: Final = 100.0
"""What counts for pictures without any difference."""


def golden(path: Path | None) -> list[str]:
    """The prompts of the file, one a line. Raises `CannotLoad`."""
    if path is None:
        return list(GOLDEN)
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CannotLoad(f"DARKROOM_QUALITY_PROMPTS={path}: {type(error).__name__}") from None
    if not found:
        raise CannotLoad(f"DARKROOM_QUALITY_PROMPTS={path} holds no prompt.")
    return found


def psnr_db(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio of two pictures of one size, dB."""
    pair = [np.frombuffer(each.rgb, np.uint8).astype(np.float64) for each in (one, other)]
    error = float(((pair[0] - pair[1]) ** 2).mean())
    return EQUAL_DB if error == 0 else min(EQUAL_DB, float(10 * np.log10(255**2 / error)))


def gate(
    before: Sequence[Pixels | ImageFault], after: Sequence[Pixels | ImageFault], floor_db: float
) -> float:
    """The mean PSNR of pictures against their originals. Raises `CannotLoad` below the floor, or when one is no picture."""
    scores = [
        psnr_db(one, other)
        for one, other in zip(before, after, strict=True)
        if isinstance(one, Pixels) and isinstance(other, Pixels)
    ]
    if len(scores) < len(before):
        raise CannotLoad("A golden prompt made no picture: see the engine's log.")
    mean = sum(scores) / len(scores)
    if mean < floor_db:
        raise CannotLoad(
            f"The quantised model's pictures are {mean:.1f} dB from its own, below DARKROOM_QUALITY_FLOOR_DB={floor_db:g}."
        )
    return mean
