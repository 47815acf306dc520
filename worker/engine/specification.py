"""What a loaded model can be asked for: read off its pipeline, and told to the API by the worker."""

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
    """The model `name` as it runs on `device` in `dtype`, by the kernel `attention`."""
    pipeline = loaded.pipeline
    sampler, schedule_type = names_of(type(pipeline.scheduler).__name__, pipeline.scheduler.config)
    factor: int = pipeline.vae_scale_factor
    config = pipeline.unet.config
    multiple = factor * 2 ** (len(config.block_out_channels) - 1)
    side = config.sample_size * factor
    largest = side * 3 // 2
    profile = loaded.profile
    counts = step_counts(pipeline.scheduler, profile.max_steps)
    possible = [n for n in range(1, profile.max_steps + 1) if counts.of(n)]
    return ModelSpec(
        name=name,
        revision=loaded.revision,
        # What changes pixels beyond rounding is part of every cache key.
        dtype="-".join([str(dtype).removeprefix("torch."), *_eight_bit(settings)]),
        default_width=side,
        default_height=side,
        size_multiple=multiple,
        min_size=max(multiple, side // 2),
        max_size=largest,
        max_pixels=largest * largest,
        # The nearest that the solver can take.
        default_steps=min(possible, key=lambda n: (abs(n - profile.steps), n)),
        max_steps=possible[-1],
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
    )


def _eight_bit(settings: WorkerSettings) -> list[str]:
    """The way to eight bits and the prompts that it was calibrated on."""
    if settings.quantise == "none":
        return []
    path = settings.calibration_prompts
    return [settings.quantise, *([] if path is None else [calibration_digest(path)])]
