"""What the batcher and the engine process say to each other. Plain data: it crosses a pipe.

The engine holds *samples*: images in the making, each with its own latents, timestep and random generator. The batcher names,
pass by pass, which of them take the next denoising step together (step-level batching, as Orca's iteration-level scheduling
of Yu et al. 2022): images with 1, 4 and 25 steps share passes, join and leave between them. A one-step image joins and is
finished in the same pass, so that one-step traffic costs one message each way and nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from contracts.models import ModelSpec
from contracts.requests import steps_taken


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What must be equal for two images to share a forward pass: neither seed nor prompt, nor how many steps each takes.

    `guided`: with classifier-free guidance, which doubles the work of a pass; the scale itself may differ.
    `lora`: the adapter that acts on the weights, by `lora_scale`; empty: none.
    """

    model: str
    width: int
    height: int
    guided: bool
    lora: str = ""
    lora_scale: float = 0.0

    @property
    def work(self) -> BatchKey:
        """The key of all passes that take the same time and memory: how strongly an adapter acts is all the same."""
        return replace(self, lora_scale=0.0) if self.lora_scale else self


@dataclass(frozen=True, slots=True)
class ImageTask:
    """One image to draw. `guidance_scale` is read only under a key that is guided."""

    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int = 1
    guidance_scale: float = 0.0
    init_image: bytes | None = None
    """The picture to start from, of the key's size, as `Pixels.rgb` holds one."""
    strength: float | None = None
    """With `init_image`: the share of the steps that are taken."""
    previews: tuple[int, ...] = ()
    """After which of its `steps` it is to be shown as it stands, in order; never after the last."""
    denoising_steps: int | None = None
    """The steps that the model's solver takes for it. None: as many as are named."""

    @property
    def steps(self) -> int:
        """Denoising steps that it takes."""
        return self.denoising_steps or steps_taken(self.num_inference_steps, self.strength)


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass: a denoising step for each of `samples`, all under `key`.

    `joining` holds the tasks of those samples that take their first step now; the engine knows the others.
    `leaving` names samples, of any key, that nobody wants any more: the engine forgets them first.
    """

    key: BatchKey
    samples: tuple[int, ...]
    joining: Mapping[int, ImageTask] = field(default_factory=dict)
    leaving: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pixels:
    """A finished image: `rgb` holds `height * width * 3` bytes, row by row, red first."""

    width: int
    height: int
    rgb: bytes
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preview:
    """What a sample would be if the model's present guess were right; `index` is its place in `ImageTask.previews`."""

    index: int
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Progress:
    """A sample that has taken `step` of its `steps` steps and needs more. A `preview` that is no picture is left out."""

    step: int
    steps: int
    preview: Preview | None = None


@dataclass(frozen=True, slots=True)
class ImageFault:
    """Why one image of a batch failed; `code` is that of a `contracts.failures.GenerationError`."""

    code: str
    message: str


Advanced = Progress | Pixels | ImageFault
"""What a pass made of a sample. After `Pixels` or `ImageFault` the engine has forgotten it."""


class ImageEngine(Protocol):
    """A loaded model on a device. Lives in a child process; one thread calls it."""

    def load(self) -> ModelSpec:
        """Load weights, warm up, and say what was loaded. Raises on a bad model: the worker stops."""
        ...

    def advance(self, batch: Pass) -> list[Advanced]:
        """Run one pass. Answers one entry per sample, in the order of `batch.samples`.

        Raises `contracts.failures.OutOfMemory` when the pass does not fit; any other exception means that the pass as a
        whole failed and may be bisected. After an exception the engine has forgotten every sample of the pass: those that
        are to run again join anew.
        """
        ...

    def peak_memory_bytes(self) -> int | None:
        """The device memory that the last pass needed at its peak, weights included; None where the device does not tell."""
        ...

    def free_memory(self) -> None:
        """Give back what a failed pass has left in caches. Called after `advance` has raised.

        Raises anything if the device does not answer any more: then the process ends, for only another one gets it back.
        """
        ...
