"""What the platform knows of a model that it serves: the numbers for validation and cache keys.

A worker announces the specification of its loaded model. The API validates against it and needs no
model files.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contracts.documents import Document, Frozen, Versioned
from contracts.requests import steps_taken


def _none(value: object) -> bool:
    # An empty value is not written, so processes of a version without this field can read the document.
    return not value


Positive = Annotated[int, Field(ge=1)]


class StepCounts(Document):
    """How many denoising steps a model's solver takes for each count that a request may name.

    `taken[n - 1]` is the number of steps for `num_inference_steps` of n, and 0 where the solver cannot take
    n. An empty `taken` means that every n takes n steps. Image-to-image skips whole steps of
    `num_inference_steps`. Each of these is `order` solver steps, as in `get_timesteps` of diffusers'
    image-to-image pipelines.
    """

    taken: tuple[Annotated[int, Field(ge=0)], ...] = ()
    order: Positive = 1

    def of(self, steps: int, strength: float | None = None) -> int:
        """Denoising steps of one image. 0: the solver cannot take `steps`, or `strength` leaves no step."""
        if not self.taken:
            return steps_taken(steps, strength)
        whole = self.taken[steps - 1] if 1 <= steps <= len(self.taken) else 0
        counted = steps_taken(steps, strength)
        return max(0, whole - (steps - counted) * self.order) if counted else 0


AS_NAMED = StepCounts()


def _as_named(counts: StepCounts) -> bool:
    # The default is not written, so processes of a version without this field can read the document.
    return counts == AS_NAMED


def _empty(text: str) -> bool:
    return not text


class LoraSpec(Document):
    """A low-rank adapter that the worker has loaded. `revision` changes with its weights."""

    name: str
    revision: str


class ModelSpec(Versioned):
    """Limits and defaults of one loaded model.

    `revision` changes whenever the weights do. `dtype` is the class of arithmetic (`float32`, `float16`).
    Both are part of every cache key. Sizes are in pixels: each side is a multiple of `size_multiple` within
    `min_size..max_size`, and width times height is at most `max_pixels`. `max_batch` counts images.
    """

    name: str
    revision: str
    dtype: str
    default_width: Positive
    default_height: Positive
    size_multiple: Positive
    min_size: Positive
    max_size: Positive
    max_pixels: Positive
    default_steps: Positive
    max_steps: Positive
    default_guidance_scale: Annotated[float, Field(ge=0)]
    max_guidance_scale: Annotated[float, Field(ge=0)]
    max_prompt_tokens: Positive
    max_batch: Positive
    description: str = ""
    device: str = "cpu"
    """The kind of device that the model is loaded on, by its maker's name."""
    attention: str = ""
    """The kernel that computes attention; empty for a model without attention."""
    loras: tuple[LoraSpec, ...] = ()
    """The adapters that a request may name."""
    init_images: bool = False
    """Whether a request may give an init image."""
    sampler: str = ""
    """The solver's name in image metadata, as other tools know it; empty where there is none."""
    schedule_type: str = ""
    """The schedule of the solver's steps, also by its name in image metadata."""
    clip: str = Field(default="", exclude_if=_empty)
    """The CLIP that embeds finished images, as `name@revision`; empty: none does."""
    step_counts: StepCounts = Field(default=AS_NAMED, exclude_if=_as_named)
    """The solver's steps for each count up to `max_steps`."""

    @property
    def refused_steps(self) -> tuple[int, ...]:
        """The counts up to `max_steps` that the solver cannot take."""
        return tuple(n for n in range(1, self.max_steps + 1) if not self.step_counts.of(n))

    @property
    def min_steps(self) -> int:
        """The smallest count that the solver can take."""
        return next(n for n in range(1, self.max_steps + 1) if self.step_counts.of(n))


class WorkerInfo(Document):
    """A live worker, as its heartbeat reports it.

    `steps_per_s` is its rate under load, in denoising steps of one image; 0.0 until it has run a batch.
    `backlog_steps` is the work that its active jobs still need. `steps_per_job` is the mean of its latest
    jobs. `policy` is the policy that it judges images by, as `name@version`; empty: none.
    """

    id: str
    model: str
    started_at: float
    steps_per_s: float = 0.0
    backlog_steps: float = 0.0
    steps_per_job: float = 1.0
    policy: str = Field(default="", exclude_if=_none)


class ServedModel(Frozen):
    """An announced model and the workers that serve it now.

    `awaited`: no worker serves it now, but one did so recently that another is expected.
    """

    spec: ModelSpec
    workers: tuple[WorkerInfo, ...] = ()
    awaited: bool = False


class Announced(Frozen):
    """The model directory as one process reads it."""

    models: tuple[ServedModel, ...] = ()
    """By name."""
    unreadable: frozenset[str] = frozenset()
    """Names of models whose announcement needs a newer reader."""
