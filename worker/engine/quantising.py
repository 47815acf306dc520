"""From a model to the same in eight bits: calibrated on some prompts, judged on others, refused below the floor.

Calibration is post-training quantisation without learning. The prompts of `DARKROOM_CALIBRATION_PROMPTS` are drawn in full, and every
layer is heard: how large its inputs become, which sets the scale of `fp8`, and how much noise eight bits would add to its output. Then
the fewest of the noisiest layers stay in float with which the pictures of these prompts reach the floor. The golden prompts, which had
no part in the choice, have the last word.
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
"""One picture of a prompt, by the model as it is now."""
SHARES: Final = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Of the layers, how many may stay in float; what wants more than half does not want eight bits."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Quantised:
    """What came of it. `kept`: layers that stay in float; `shrink`: bytes before over bytes after."""

    quality: Quality
    kept: tuple[str, ...]
    shrink: float


class Quantiser:
    """Quantises `models`, by name, after the settings.

    `draw` draws with them; inside `in_float32()` it does so in single precision, which is what all is compared with.
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
        """Raises `ModelLoadError` when the pictures suffer."""
        with self._in_float32():
            golden = self._pictures(self._golden)
            wanted = self._pictures(self._prompts) if self._calibrated else golden
        largest: dict[str, float] = {}
        noisiest: list[str] = []
        if self._calibrated or self._way == "fp8":
            with _heard(self._models, largest):
                self._pictures(self._prompts)
        if self._calibrated:
            noise: dict[str, Noise] = {}
            with _compared(self._models, self._way, largest, noise):
                self._pictures(self._prompts)
            noisiest = sorted(noise, key=lambda name: noise[name].sqnr_db)
        size = quantised_layers.size_bytes(self._models)
        kept = self._choose(largest, noisiest, wanted)
        reached = quality.measure(golden, self._pictures(self._golden), self._clip)
        quality.gate(reached, self._floor)
        return Quantised(reached, kept, size / quantised_layers.size_bytes(self._models))

    def _choose(
        self, largest: dict[str, float], noisiest: list[str], wanted: Sequence[Pixels | ImageFault]
    ) -> tuple[str, ...]:
        """Quantises; answers what stayed as it was. Without calibration that is nothing."""
        if not self._calibrated:
            quantised_layers.quantise(self._models, self._way, largest)
            return ()
        for share in SHARES:
            kept = tuple(noisiest[: math.ceil(share * len(noisiest))])
            replaced = quantised_layers.quantise(self._models, self._way, largest, kept)
            reached = quality.measure(wanted, self._pictures(self._prompts), self._clip)
            log.info("calibrated", kept=len(kept), layers=len(noisiest), quality=str(reached))
            if self._floor.holds(reached):
                break
            if share != SHARES[-1]:
                quantised_layers.restore(self._models, replaced)
        return kept

    def _pictures(self, prompts: Sequence[str]) -> list[Pixels | ImageFault]:
        return [self._draw(prompt) for prompt in prompts]


@dataclass(slots=True)
class Noise:
    """Energy of a layer's outputs, and of what eight bits add to them."""

    signal: float = 0.0
    noise: float = 0.0

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise."""
        if self.noise == 0.0:
            return math.inf
        return 10 * math.log10(max(self.signal, 1e-30) / self.noise)


def calibration_digest(path: Path) -> str:
    """8 hex digits of calibration prompts: others may choose other layers, and so other pixels. Raises `ModelLoadError`."""
    prompts = quality.prompts(path, "DARKROOM_CALIBRATION_PROMPTS")
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:8]


@contextmanager
def _hooked(
    models: nn.Module, hear: Callable[[str, quantised_layers.Layer, torch.Tensor, torch.Tensor], None]
) -> Iterator[None]:
    def hook(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: hear(name, layer, inputs[0], output)

    handles = [
        layer.register_forward_hook(hook(name)) for name, layer in quantised_layers.layers(models).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _heard(models: nn.Module, largest: dict[str, float]) -> AbstractContextManager[None]:
    """Around a pass: fills in the largest input of each layer."""

    def hear(name: str, _layer: Any, given: torch.Tensor, _made: torch.Tensor) -> None:
        largest[name] = max(largest.get(name, 0.0), float(given.abs().amax()))

    return _hooked(models, hear)


def _compared(
    models: nn.Module, way: str, largest: dict[str, float], noise: dict[str, Noise]
) -> AbstractContextManager[None]:
    """Around a pass: fills in what eight bits would add to the outputs of each layer on the inputs that it gets."""

    def hear(name: str, layer: quantised_layers.Layer, given: torch.Tensor, made: torch.Tensor) -> None:
        other = quantised_layers.quantise_layer(layer, way, largest.get(name))
        if other is None:
            return
        heard = noise.setdefault(name, Noise())
        heard.signal += float(made.float().square().sum())
        heard.noise += float((other(given).float() - made.float()).square().sum())

    return _hooked(models, hear)
