"""Samples: images in the making, and the one forward pass that takes a batch of them a step on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from contracts.engine import BatchKey, ImageTask
from worker.engine.init_image import encode
from worker.engine.padded_batch import RecordedNetwork, Recorder, run_padded
from worker.engine.schedule import Sampler, SolverState
from worker.engine.text import Encoded, PromptEncoder


@dataclass(slots=True)
class Sample:
    """One image: its task, its noise, its place in its schedule. `latents` is (1, C, h, w), float32."""

    task: ImageTask
    generator: torch.Generator
    latents: torch.Tensor
    solver_state: SolverState
    text: Encoded
    negative: Encoded | None
    warnings: tuple[str, ...]
    shown: int | None = None
    """After its last step it is to be shown: for the so-manieth time, as `estimate`, of the shape of `latents`."""
    predict_x0: torch.Tensor | None = None

    @property
    def finished(self) -> bool:
        return self.solver_state.step >= self.solver_state.steps

    @property
    def step(self) -> int:
        """The step of its course that comes next, from 1."""
        return self.solver_state.step + 1


class Denoiser:
    """UNet, text encoders and solver of one pipeline, for samples at any step of any schedule."""

    def __init__(
        self,
        pipeline: Any,
        sampler: Sampler,
        encoder: PromptEncoder,
        fixed: int | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._fixed = fixed
        self._recorded = None if recorder is None else RecordedNetwork(self._predict, recorder)
        self._pipeline = pipeline
        self._sampler = sampler
        self._encoder = encoder
        self._xl = getattr(pipeline, "text_encoder_2", None) is not None
        # diffusers walks through all modules to tell it, which takes as long as a tenth of a small picture.
        self._device = pipeline.unet.device

    def join(self, key: BatchKey, tasks: Sequence[ImageTask]) -> list[Sample]:
        """New samples, before their first step."""
        texts = self._encoder.encode(task.prompt for task in tasks)
        negatives = (
            self._encoder.encode_negative(task.negative_prompt for task in tasks) if key.guided else {}
        )
        return [
            self._sample(key, task, texts[task.prompt], negatives.get(task.negative_prompt)) for task in tasks
        ]

    def step(self, key: BatchKey, samples: Sequence[Sample]) -> None:
        """One forward pass of the UNet, one step for each sample."""
        solver_states = [sample.solver_state for sample in samples]
        latents = torch.cat([sample.latents for sample in samples])
        scaled, timesteps = self._sampler.inputs(solver_states, latents)
        inputs = scaled
        states = torch.cat([sample.text.states for sample in samples])
        if key.guided:
            inputs, timesteps = torch.cat([inputs, inputs]), torch.cat([timesteps, timesteps])
            states = torch.cat([*(_negative(sample).states for sample in samples), states])
        added = self._added(key, samples) if self._xl else ()
        network = self._recorded or self._predict
        inputs = inputs.to(dtype_of(self._pipeline.unet))
        prediction = run_padded(network, self._fixed, inputs, timesteps, states, *added).float()
        if key.guided:
            uncond, cond = prediction.chunk(2)
            scales = torch.tensor([s.task.guidance_scale for s in samples], device=latents.device)
            prediction = torch.lerp(uncond, cond, scales.view(-1, 1, 1, 1))
        for place, sample in enumerate(samples):
            sample.shown = sample.predict_x0 = None
            if sample.step in sample.task.previews:
                sample.shown = sample.task.previews.index(sample.step)
                only = slice(place, place + 1)
                sample.predict_x0 = self._sampler.predict_x0(
                    sample.solver_state, scaled[only], prediction[only]
                )
        moved = self._sampler.step(solver_states, prediction, latents, [s.generator for s in samples])
        for sample, part in zip(samples, moved.split(1), strict=True):
            sample.latents = part

    def eager(self) -> AbstractContextManager[None]:
        """Around changes of the UNet's weights: no recording of it is replayed."""
        return nullcontext() if self._recorded is None else self._recorded.aside()

    def _predict(
        self, inputs: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor, *added: torch.Tensor
    ) -> torch.Tensor:
        answer: torch.Tensor = self._pipeline.unet(
            inputs,
            timesteps,
            encoder_hidden_states=states,
            added_cond_kwargs=dict(zip(("text_embeds", "time_ids"), added, strict=True)) if added else None,
            return_dict=False,
        )[0]
        return answer

    def _sample(self, key: BatchKey, task: ImageTask, text: Encoded, negative: Encoded | None) -> Sample:
        pipeline = self._pipeline
        factor: int = pipeline.vae_scale_factor
        shape = (1, pipeline.unet.config.in_channels, key.height // factor, key.width // factor)
        strength = None if task.init_image is None else task.strength
        solver_state = self._sampler.begin(task.num_inference_steps, strength)
        # On the CPU and in single precision whatever the model has: a seed means the same noise on every machine.
        generator = torch.Generator("cpu").manual_seed(task.seed)
        image = None if task.init_image is None else encode(pipeline.vae, key, task.init_image, generator)
        noise = torch.randn(shape, generator=generator).to(self._device)
        latents = self._sampler.start(solver_state, noise, image)
        limit = self._encoder.limit
        read = {"prompt": text, "negative_prompt": negative}
        warnings = tuple(
            f"{name} has {each.tokens} tokens; the model read the first {limit}."
            for name, each in read.items()
            if each is not None and each.tokens > limit
        )
        return Sample(task, generator, latents, solver_state, text, negative, warnings)

    def _added(self, key: BatchKey, samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
        """SDXL's own conditions: pooled text, and the sizes (Podell et al. 2023, section 2.2), for an uncropped original."""
        texts = [sample.text for sample in samples]
        if key.guided:
            texts = [*(_negative(sample) for sample in samples), *texts]
        pooled = torch.cat([text.pooled for text in texts if text.pooled is not None])
        sizes = torch.tensor([[key.height, key.width, 0, 0, key.height, key.width]], device=pooled.device)
        return pooled, sizes.to(pooled.dtype).expand(len(texts), -1)


def dtype_of(network: torch.nn.Module) -> torch.dtype:
    """As `network.dtype` of diffusers tells it, but at once."""
    return next(network.parameters()).dtype


def _negative(sample: Sample) -> Encoded:
    if sample.negative is None:
        raise ValueError("A sample that joined without guidance is in a guided pass.")
    return sample.negative
