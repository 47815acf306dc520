"""What a batch costs on which device, in seconds and in money."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Device:
    """A pass of n images takes `a_s + b_s * n` seconds (SD-Turbo, 512 x 512, one step, if it comes from `KNOWN`). Prices are US
    dollars an hour: examples of what clouds ask, to be replaced by your own."""

    name: str
    a_s: float
    b_s: float
    price: float = 1.0
    spot_price: float = 0.4

    def seconds(self, images: int) -> float:
        return self.a_s + self.b_s * images

    def per_image_s(self, max_batch: int) -> float:
        """Seconds of the device for an image in a full batch."""
        return self.seconds(max_batch) / max_batch


KNOWN: Final = {
    device.name: device
    for device in (
        Device("a100-eager", 0.0500, 0.0400, 1.80, 0.75),
        Device("a100-tensorrt", 0.0085, 0.0277, 1.80, 0.75),
        Device("4090-tensorrt", 0.0048, 0.0317, 0.40, 0.22),
        Device("h200", 0.0330, 0.0110, 3.50, 1.90),
    )
}
"""Lines through published times of batches of 1 to 4; for `h200` through our engine's own, of 1 to 16 (docs/engine.md)."""

UNET_TFLOP: Final = 0.80
DECODE_TFLOP: Final = 2.52
TEXT_TFLOP: Final = 0.05
TINY_DECODE_TFLOP: Final = 0.12


def work(steps: int = 1, tiny_vae: bool = False) -> float:
    """Arithmetic of an SD-Turbo image over that of one step and the full decoder: scales `b_s`."""
    decode = TINY_DECODE_TFLOP if tiny_vae else DECODE_TFLOP
    return (steps * UNET_TFLOP + decode + TEXT_TFLOP) / (UNET_TFLOP + DECODE_TFLOP + TEXT_TFLOP)


def measured(path: Path) -> Device:
    """A device from a JSON file that holds `a_s` and `b_s`, as a report of ours (among its figures) or alone. Raises
    `ValueError` for a file of another form."""
    try:
        told = json.loads(path.read_text())
        found = told.get("figures", told)
        return Device(path.stem, float(found["a_s"]), float(found["b_s"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path} must hold a_s and b_s: a pass of n images takes a_s + b_s n seconds."
        ) from None
