"""Quantisation of a model to eight bits: calibrated on some prompts, judged on others, refused below a floor.

Calibration is post-training quantisation without learning. The prompts of
`DARKROOM_CALIBRATION_PROMPTS` are drawn in full, and every layer is observed. The largest input sets
the scale of `fp8`. The noise that eight bits would add to the output ranks the layers. As few as
possible of the noisiest layers then stay in floating point: just enough for the images of these
prompts to reach the floor. The golden prompts decide in the end. They had no part in the choice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from contracts.engine import ImageFault, Pixels
from contracts.settings import WorkerSettings
from telemetry.logs import get_logger
from worker.engine import quality, quantised_layers
from worker.engine.quality import Clip, Floor, Quality

Draw = Callable[[str], Pixels | ImageFault]
"""Draws one image of a prompt with the model as it is now."""
SHARES: Final = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""The shares of layers that may stay in floating point, tried in order.

A model that needs more than half of its layers in floating point gains too little from eight bits.
"""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Quantised:
    """The result. `kept` names the layers that stay in floating point.

    `shrink` is the size before divided by the size after.
    """

    quality: Quality
    kept: tuple[str, ...]
    shrink: float


class Quantiser:
    """Quantises `models`, given by name, as the settings ask.

    `draw` draws an image with them. Inside `in_float32()` it draws in single precision: these images
    are the reference. Raises `ModelLoadError` if prompts or CLIP model cannot be loaded.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        models: dict[str, nn.Module],
        draw: Draw,
        in_float32: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._way = settings.quantise
        self._models = nn.ModuleDict(models)
        self._draw = draw
        self._in_float32 = in_float32
        self._golden = quality.prompts(settings.quality_prompts, "DARKROOM_QUALITY_PROMPTS")
        path = settings.calibration_prompts
        self._calibrated = path is not None
        self._prompts = (
            self._golden if path is None else quality.prompts(path, "DARKROOM_CALIBRATION_PROMPTS")
        )
        self._floor = Floor(settings.quality_floor_db, settings.quality_floor_clip)
        self._clip = None if settings.quality_clip is None else Clip(settings.quality_clip)

    def run(self) -> Quantised:
        """Quantise the models in place. Raises `ModelLoadError` if the quality is below the floor."""
        with self._in_float32():
            golden = self._images(self._golden)
            reference = self._images(self._prompts) if self._calibrated else golden
        largest: dict[str, float] = {}
        noisiest: list[str] = []
        if self._calibrated or self._way == "fp8":
            with _record_largest(self._models, largest):
                self._images(self._prompts)
        if self._calibrated:
            noise: dict[str, Noise] = {}
            with _record_noise(self._models, self._way, largest, noise):
                self._images(self._prompts)
            noisiest = sorted(noise, key=lambda name: noise[name].sqnr_db)
        size = quantised_layers.size_bytes(self._models)
        kept = self._choose_kept(largest, noisiest, reference)
        reached = quality.measure(golden, self._images(self._golden), self._clip)
        quality.gate(reached, self._floor)
        return Quantised(reached, kept, size / quantised_layers.size_bytes(self._models))

    def _choose_kept(
        self, largest: dict[str, float], noisiest: list[str], reference: Sequence[Pixels | ImageFault]
    ) -> tuple[str, ...]:
        """Quantise, and return the layers that stay as they are. Without calibration there are none."""
        if not self._calibrated:
            quantised_layers.quantise(self._models, self._way, largest)
            return ()
        for share in SHARES:
            kept = tuple(noisiest[: math.ceil(share * len(noisiest))])
            replaced = quantised_layers.quantise(self._models, self._way, largest, kept)
            reached = quality.measure(reference, self._images(self._prompts), self._clip)
            log.info("calibrated", kept=len(kept), layers=len(noisiest), quality=str(reached))
            if self._floor.holds(reached):
                break
            if share != SHARES[-1]:
                quantised_layers.restore(self._models, replaced)
        return kept

    def _images(self, prompts: Sequence[str]) -> list[Pixels | ImageFault]:
        return [self._draw(prompt) for prompt in prompts]


@dataclass(slots=True)
class Noise:
    """The energy of a layer's outputs, and the energy of the noise that eight bits add to them."""

    signal: float = 0.0
    noise: float = 0.0

    @property
    def sqnr_db(self) -> float:
        """The signal-to-quantisation-noise ratio, in dB."""
        if self.noise == 0.0:
            return math.inf
        return 10 * math.log10(max(self.signal, 1e-30) / self.noise)


def calibration_digest(path: Path) -> str:
    """Return a digest of the calibration prompts, as 8 hex digits.

    Other prompts may choose other layers, which changes pixels. Raises `ModelLoadError` if the file
    cannot be read.
    """
    prompts = quality.prompts(path, "DARKROOM_CALIBRATION_PROMPTS")
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:8]


@contextmanager
def _hooked(
    models: nn.Module, observe: Callable[[str, quantised_layers.Layer, torch.Tensor, torch.Tensor], None]
) -> Iterator[None]:
    def hook(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: observe(name, layer, inputs[0], output)

    handles = [
        layer.register_forward_hook(hook(name)) for name, layer in quantised_layers.layers(models).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _record_largest(models: nn.Module, largest: dict[str, float]) -> AbstractContextManager[None]:
    """A context for a pass: inside, `largest` records the largest absolute input of each layer."""

    def observe(name: str, _layer: Any, x: torch.Tensor, _output: torch.Tensor) -> None:
        largest[name] = max(largest.get(name, 0.0), float(x.abs().amax()))

    return _hooked(models, observe)


def _record_noise(
    models: nn.Module, way: str, largest: dict[str, float], noise: dict[str, Noise]
) -> AbstractContextManager[None]:
    """A context for a pass: inside, `noise` records what eight bits would add to each layer's outputs."""

    def observe(name: str, layer: quantised_layers.Layer, x: torch.Tensor, output: torch.Tensor) -> None:
        quantised = quantised_layers.quantise_layer(layer, way, largest.get(name))
        if quantised is None:
            return
        record = noise.setdefault(name, Noise())
        record.signal += float(output.float().square().sum())
        record.noise += float((quantised(x).float() - output.float()).square().sum())

    return _hooked(models, observe)
