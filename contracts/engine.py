"""What the batcher and the engine process say to each other. Plain data: it crosses a pipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from contracts.models import ModelSpec


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What must be equal for two images to share a forward pass."""

    model: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float


@dataclass(frozen=True, slots=True)
class ImageTask:
    """One image to draw; `index` is its place in the batch's answer."""

    prompt: str
    negative_prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Pixels:
    """A finished image: `rgb` holds `height * width * 3` bytes, row by row, red first."""

    width: int
    height: int
    rgb: bytes
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageFault:
    """Why one image of a batch failed; `code` is that of a `contracts.errors.GenerationError`."""

    code: str
    message: str


class ImageEngine(Protocol):
    """A loaded model on a device. Lives in a child process; one thread calls it."""

    def load(self) -> ModelSpec:
        """Load weights, warm up, and say what was loaded. Raises on a bad model: the worker stops."""
        ...

    def generate(self, key: BatchKey, tasks: list[ImageTask]) -> list[Pixels | ImageFault]:
        """Draw `tasks` in one batch. Answers one entry per task, in order.

        Raises `contracts.errors.OutOfMemory` when the batch does not fit; any other exception means that the
        batch as a whole failed and may be bisected.
        """
        ...
