"""The messages between the batcher and the engine process. Plain data: it crosses a pipe.

The engine holds *samples*: images in the making, each with its latents, timestep and random generator.
For every batch the batcher names the samples that take the next denoising step together. This is
step-level batching, like the iteration-level scheduling of Orca (Yu et al. 2022). Images with 1, 4 and
25 steps share batches, and join and leave between them. A one-step image joins and finishes in the same
batch, so one-step traffic costs one message each way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from contracts.requests import steps_taken


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What must be equal for two images to share a forward pass. Seed, prompt and step count may differ.

    `guided`: with classifier-free guidance, which doubles the work of a batch. The scale may differ.
    `lora`: the adapter that acts on the weights, with strength `lora_scale`; empty: none.
    """

    model: str
    width: int
    height: int
    guided: bool
    lora: str = ""
    lora_scale: float = 0.0

    @property
    def work(self) -> BatchKey:
        """The key of all batches with the same duration and memory use: `lora_scale` does not matter."""
        return replace(self, lora_scale=0.0) if self.lora_scale else self


@dataclass(frozen=True, slots=True)
class ImageTask:
    """One image to draw. The engine reads `guidance_scale` only under a guided key."""

    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int = 1
    guidance_scale: float = 0.0
    init_image: bytes | None = None
    """The init image, of the key's size, in the layout of `Pixels.rgb`."""
    strength: float | None = None
    """With `init_image`: the share of the steps that run, from 0 to 1."""
    previews: tuple[int, ...] = ()
    """The steps after which a preview is made, in ascending order; never the last step."""
    denoising_steps: int | None = None
    """Steps that the model's solver takes for this image. None: as many as the request names."""

    @property
    def steps(self) -> int:
        """Denoising steps that the image takes."""
        return self.denoising_steps or steps_taken(self.num_inference_steps, self.strength)


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass: one denoising step for each of `samples`, all under `key`.

    `joining` holds the tasks of the samples that take their first step in this batch. The engine knows the
    others. `leaving` names samples, of any key, that are no longer wanted: the engine drops them first.
    """

    key: BatchKey
    samples: tuple[int, ...]
    joining: Mapping[int, ImageTask] = field(default_factory=dict)
    leaving: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pixels:
    """A finished image: `rgb` holds `height * width * 3` bytes, row by row, in the order red, green, blue.

    `embedding` is its vector by the model `ModelSpec.clip`: little-endian float16 numbers, of length 1.
    None: there is no such model, or it has failed.
    """

    width: int
    height: int
    rgb: bytes
    warnings: tuple[str, ...] = ()
    embedding: bytes | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """The model's current estimate of the finished image. `index` is its place in `ImageTask.previews`."""

    index: int
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Progress:
    """A sample has taken `step` of its `steps` steps and is not finished.

    An invalid `preview` is left out.
    """

    step: int
    steps: int
    preview: Preview | None = None


@dataclass(frozen=True, slots=True)
class ImageFault:
    """Why one image of a batch failed. `code` is the code of a `contracts.failures.GenerationError`."""

    code: str
    message: str


Advanced = Progress | Pixels | ImageFault
"""The result of a batch for one sample. After `Pixels` or `ImageFault` the engine has dropped the sample."""
