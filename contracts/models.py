"""What the platform knows of a model it serves: the numbers that validation and cache keys need.

A worker announces the specification of what it has loaded; the API validates against it and needs no model files.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contracts.documents import Document, Frozen, Versioned

Positive = Annotated[int, Field(ge=1)]


class LoraSpec(Document):
    """A low-rank adapter that the worker has loaded; `revision` changes with its weights."""

    name: str
    revision: str


class ModelSpec(Versioned):
    """Limits and defaults of one loaded model.

    `revision` changes whenever the weights do; `dtype` is the class of arithmetic (`float32`, `float16`): both
    are part of every cache key. Sizes are pixels, multiples of `size_multiple` within `min_size..max_size` on each
    side, and at most `max_pixels` in all. `max_batch` counts images.
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
    """The kind of device that it was loaded on, as its maker names it."""
    attention: str = ""
    """The kernel that computes attention; empty where there is none."""
    loras: tuple[LoraSpec, ...] = ()
    """The adapters that a request may name."""
    init_images: bool = False
    """Whether a request may give a picture to start from."""
    sampler: str = ""
    """The solver, by the name that readers of a picture's metadata know it by; empty where there is none."""
    schedule_type: str = ""
    """How its steps are spread, likewise."""


class WorkerInfo(Document):
    """A live worker, as its heartbeat tells it. `steps_per_s` is its rate under load, in denoising steps of one image; 0.0 until
    it has run a pass. `backlog_steps` are those that what it has in hand still needs; a job that it took lately needed
    `steps_per_job`."""

    id: str
    model: str
    started_at: float
    steps_per_s: float = 0.0
    backlog_steps: float = 0.0
    steps_per_job: float = 1.0


class ServedModel(Frozen):
    """A model that was announced, and the workers that serve it now. `awaited`: there is none, but there was so lately that
    another is to be expected."""

    spec: ModelSpec
    workers: tuple[WorkerInfo, ...] = ()
    awaited: bool = False


class Announced(Frozen):
    """The model directory as one process reads it."""

    models: tuple[ServedModel, ...] = ()
    """By name."""
    unreadable: frozenset[str] = frozenset()
    """Names of models whose announcement only a newer version can read."""
