"""Samples, which are images in the making, and the forward pass that denoises a batch of them by one step."""

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
    """An image in the making: its task, its random generator, its place in its schedule.

    `cond` and `uncond` hold the embeddings of the prompt and of the negative prompt. `uncond` is
    None without classifier-free guidance.
    """

    task: ImageTask
    generator: torch.Generator
    latents: torch.Tensor
    """(1, C, h, w), float32."""
    solver_state: SolverState
    cond: Encoded
    uncond: Encoded | None
    warnings: tuple[str, ...]
    preview_index: int | None = None
    """The index of the preview that is due after the step just taken; None if none is due."""
    predict_x0: torch.Tensor | None = None
    """The predicted clean latents for that preview, (1, C, h, w), float32."""

    @property
    def finished(self) -> bool:
        """Whether all steps are taken."""
        return self.solver_state.step >= self.solver_state.steps

    @property
    def step(self) -> int:
        """The number of the next step, from 1."""
        return self.solver_state.step + 1


class Denoiser:
    """The UNet, text encoders and solver of one pipeline, for samples at any step of any schedule.

    `fixed_batch` is the number of rows in every call of the UNet; None leaves it open. `recorder`
    records the UNet's calls; None runs it eagerly.
    """

    def __init__(
        self,
        pipeline: Any,
        sampler: Sampler,
        encoder: PromptEncoder,
        fixed_batch: int | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._fixed_batch = fixed_batch
        self._recorded = None if recorder is None else RecordedNetwork(self._predict_noise, recorder)
        self._pipeline = pipeline
        self._sampler = sampler
        self._encoder = encoder
        self._xl = getattr(pipeline, "text_encoder_2", None) is not None
        # Read once: diffusers walks through all modules for it, which takes a tenth of a small image's time.
        self._device = pipeline.unet.device

    def join(self, key: BatchKey, tasks: Sequence[ImageTask]) -> list[Sample]:
        """Make new samples, before their first step.

        Raises `ValueError` if the solver cannot take the number of steps of a task.
        """
        conds = self._encoder.encode(task.prompt for task in tasks)
        unconds = self._encoder.encode_negative(task.negative_prompt for task in tasks) if key.guided else {}
        return [
            self._sample(key, task, conds[task.prompt], unconds.get(task.negative_prompt)) for task in tasks
        ]

    def step(self, key: BatchKey, samples: Sequence[Sample]) -> None:
        """Run one forward pass of the UNet and take one step with each sample, in place.

        Raises `ValueError` if `key` is guided and a sample has joined without guidance.
        """
        solver_states = [sample.solver_state for sample in samples]
        latents = torch.cat([sample.latents for sample in samples])
        scaled, timesteps = self._sampler.inputs(solver_states, latents)
        model_input = scaled
        encoder_hidden_states = torch.cat([sample.cond.prompt_embeds for sample in samples])
        if key.guided:
            model_input, timesteps = torch.cat([model_input, model_input]), torch.cat([timesteps, timesteps])
            encoder_hidden_states = torch.cat(
                [*(_uncond(sample).prompt_embeds for sample in samples), encoder_hidden_states]
            )
        added_cond = self._added_cond(key, samples) if self._xl else ()
        network = self._recorded or self._predict_noise
        model_input = model_input.to(dtype_of(self._pipeline.unet))
        noise_pred = run_padded(
            network, self._fixed_batch, model_input, timesteps, encoder_hidden_states, *added_cond
        ).float()
        if key.guided:
            noise_pred_uncond, noise_pred_cond = noise_pred.chunk(2)
            scales = torch.tensor([s.task.guidance_scale for s in samples], device=latents.device)
            noise_pred = torch.lerp(noise_pred_uncond, noise_pred_cond, scales.view(-1, 1, 1, 1))
        for row, sample in enumerate(samples):
            sample.preview_index = sample.predict_x0 = None
            if sample.step in sample.task.previews:
                sample.preview_index = sample.task.previews.index(sample.step)
                rows = slice(row, row + 1)
                sample.predict_x0 = self._sampler.predict_x0(
                    sample.solver_state, scaled[rows], noise_pred[rows]
                )
        next_latents = self._sampler.step(solver_states, noise_pred, latents, [s.generator for s in samples])
        for sample, sample_latents in zip(samples, next_latents.split(1), strict=True):
            sample.latents = sample_latents

    def eager(self) -> AbstractContextManager[None]:
        """Return a context for changes of the UNet's weights: inside, no recording of it is replayed."""
        return nullcontext() if self._recorded is None else self._recorded.aside()

    def _predict_noise(
        self,
        model_input: torch.Tensor,
        timesteps: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        *added: torch.Tensor,
    ) -> torch.Tensor:
        noise_pred: torch.Tensor = self._pipeline.unet(
            model_input,
            timesteps,
            encoder_hidden_states=encoder_hidden_states,
            added_cond_kwargs=dict(zip(("text_embeds", "time_ids"), added, strict=True)) if added else None,
            return_dict=False,
        )[0]
        return noise_pred

    def _sample(self, key: BatchKey, task: ImageTask, cond: Encoded, uncond: Encoded | None) -> Sample:
        pipeline = self._pipeline
        factor: int = pipeline.vae_scale_factor
        shape = (1, pipeline.unet.config.in_channels, key.height // factor, key.width // factor)
        strength = None if task.init_image is None else task.strength
        solver_state = self._sampler.begin(task.num_inference_steps, strength)
        # On the CPU and in single precision, whatever the model uses. The same seed then gives the same noise
        # on every machine.
        generator = torch.Generator("cpu").manual_seed(task.seed)
        image = None if task.init_image is None else encode(pipeline.vae, key, task.init_image, generator)
        noise = torch.randn(shape, generator=generator).to(self._device)
        latents = self._sampler.start(solver_state, noise, image)
        limit = self._encoder.limit
        encoded_texts = {"prompt": cond, "negative_prompt": uncond}
        warnings = tuple(
            f"{name} has {encoded.tokens} tokens; the model read the first {limit}."
            for name, encoded in encoded_texts.items()
            if encoded is not None and encoded.tokens > limit
        )
        return Sample(task, generator, latents, solver_state, cond, uncond, warnings)

    def _added_cond(self, key: BatchKey, samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
        """Text embeds (B, width) and time ids (B, 6) of SDXL, in the precision of the text encoder.

        The time ids hold the sizes of an uncropped original (Podell et al. 2023, section 2.2).
        """
        texts = [sample.cond for sample in samples]
        if key.guided:
            texts = [*(_uncond(sample) for sample in samples), *texts]
        text_embeds = torch.cat(
            [text.pooled_prompt_embeds for text in texts if text.pooled_prompt_embeds is not None]
        )
        time_ids = torch.tensor(
            [[key.height, key.width, 0, 0, key.height, key.width]], device=text_embeds.device
        )
        return text_embeds, time_ids.to(text_embeds.dtype).expand(len(texts), -1)


def dtype_of(network: torch.nn.Module) -> torch.dtype:
    """Return the dtype of the first parameter. `network.dtype` of diffusers gives the same, but slowly."""
    return next(network.parameters()).dtype


def _uncond(sample: Sample) -> Encoded:
    if sample.uncond is None:
        raise ValueError("A sample that joined without guidance is in a guided batch.")
    return sample.uncond
