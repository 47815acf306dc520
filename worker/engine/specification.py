"""The specification of a loaded model. It is read from the pipeline, and the worker sends it to the API."""

from __future__ import annotations

import torch

from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from worker.engine.loading import Loaded
from worker.engine.quantising import calibration_digest
from worker.engine.schedule import step_counts
from worker.engine.solver_names import names_of


def spec_of(
    loaded: Loaded, settings: WorkerSettings, name: str, device: str, dtype: torch.dtype, attention: str
) -> ModelSpec:
    """Return the specification of the model `name`.

    `device` is the device's name for people. `dtype` is the precision of the networks, and
    `attention` the name of the attention kernel. Raises `ModelLoadError` if the scheduler can make
    no schedule, or if the calibration prompts cannot be read.
    """
    pipeline = loaded.pipeline
    sampler, schedule_type = names_of(type(pipeline.scheduler).__name__, pipeline.scheduler.config)
    factor: int = pipeline.vae_scale_factor
    config = pipeline.unet.config
    multiple = factor * 2 ** (len(config.block_out_channels) - 1)
    side = config.sample_size * factor
    largest = side * 3 // 2
    profile = loaded.profile
    counts = step_counts(pipeline.scheduler, profile.max_steps)
    accepted = [n for n in range(1, profile.max_steps + 1) if counts.of(n)]
    return ModelSpec(
        name=name,
        revision=loaded.revision,
        # Everything that changes pixels beyond rounding is part of the cache key.
        dtype="-".join([str(dtype).removeprefix("torch."), *_quantisation_tags(settings)]),
        default_width=side,
        default_height=side,
        size_multiple=multiple,
        min_size=max(multiple, side // 2),
        max_size=largest,
        max_pixels=largest * largest,
        # The nearest step count that the solver accepts.
        default_steps=min(accepted, key=lambda n: (abs(n - profile.steps), n)),
        max_steps=accepted[-1],
        step_counts=counts,
        default_guidance_scale=profile.guidance_scale,
        max_guidance_scale=profile.max_guidance_scale,
        max_prompt_tokens=pipeline.tokenizer.model_max_length,
        max_batch=loaded.max_batch,
        description=profile.description,
        device=device,
        attention=attention,
        loras=loaded.adapters.specs,
        init_images=profile.init_images,
        sampler=sampler,
        schedule_type=schedule_type,
        clip="" if loaded.clip is None else loaded.clip.identity,
    )


def _quantisation_tags(settings: WorkerSettings) -> list[str]:
    """The quantisation method, and the digest of its calibration prompts."""
    if settings.quantise == "none":
        return []
    path = settings.calibration_prompts
    return [settings.quantise, *([] if path is None else [calibration_digest(path)])]
