"""Stable Diffusion through `diffusers`: loads a hub id or a folder, and takes samples a step on, pass by pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Final

import torch

from contracts.engine import Advanced, BatchKey, ImageFault, ImageTask, Pass, Pixels, Preview, Progress
from contracts.failures import OutOfMemory
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from telemetry.logs import get_logger
from worker.engine import attention
from worker.engine.adapters import Adapters
from worker.engine.decode import Decoder
from worker.engine.device import keep_memory, pick
from worker.engine.errors import ModelLoadError
from worker.engine.loading import Loaded, Loader
from worker.engine.memory_plan import Plan
from worker.engine.padded_batch import CudaRecorder
from worker.engine.quantising import Quantiser
from worker.engine.samples import Denoiser, Sample
from worker.engine.schedule import sampler_of
from worker.engine.specification import spec_of
from worker.engine.text import PromptEncoder

NO_MEMORY: Final = (
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)
"""What errors say that are of no class of their own: torch's allocator on the CPU, and libraries that allocate for themselves."""

log = get_logger(__name__)


class DiffusersEngine:
    """The `ImageEngine` on torch: half precision on an accelerator, single precision on a CPU, unless told otherwise."""

    def __init__(self, settings: WorkerSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._samples: dict[int, Sample] = {}
        self._device = pick(settings.device)
        self._dtype = self._device.dtype(settings.precision)
        self._device.can_quantise(settings.quantise)

    def load(self) -> ModelSpec:
        """Raises `worker.engine.errors.ModelLoadError`, which says what is wrong and what to do."""
        settings = self._settings
        torch.set_num_threads(settings.torch_threads)
        keep_memory()
        loaded = Loader(settings, self._device, self._dtype, self._name).load()
        pipeline = self._pipeline = loaded.pipeline
        self._adapters = loaded.adapters
        self._plan = loaded.plan
        self._kernel = attention.install(pipeline.unet, settings.attention)
        fixed = settings.fixed_batch
        if fixed is not None and loaded.plan.largest_batch(fixed) < fixed:
            raise ModelLoadError(
                f"DARKROOM_FIXED_BATCH={fixed}: only {loaded.plan.largest_batch(fixed)} fit in memory."
            )
        self._encoder = PromptEncoder(pipeline, settings.prompt_cache, fixed)
        recorder = CudaRecorder() if settings.graphs == "auto" and self._device.kind == "cuda" else None
        sampler = sampler_of(pipeline.scheduler)
        self._denoiser = Denoiser(pipeline, sampler, self._encoder, fixed, recorder)
        self._decoder = Decoder(pipeline, fixed, recorder)
        spec = spec_of(loaded, settings, self._name, self._device.name, self._dtype, self._kernel.name)
        attention.fuse_projections(pipeline.unet)
        if settings.quantise != "none":
            with self._eager():
                self._quantise(spec)
        self._try_adapters(spec)
        if settings.compile:
            # One block compiled once serves all of its kind, where the whole UNet would take minutes.
            pipeline.unet.compile_repeated_blocks(fullgraph=True, dynamic=True)
        # A CPU needs no second look; an accelerator picks its algorithms by shape. The largest first: recordings of the others
        # find room in its memory.
        sizes = range(spec.max_batch, 0, -1) if self._device.kind == "cuda" or settings.compile else [1]
        for size in sizes:
            self._draw(spec, ["warm up"] * size, steps=spec.min_steps)
        log.info("engine_ready", **self._about(loaded, spec))
        return spec

    @property
    def plan(self) -> Plan:
        """What was to be expected of memory before the weights were read."""
        return self._plan

    @property
    def pipeline(self) -> Any:
        """The networks as they run."""
        return self._pipeline

    @property
    def prompts(self) -> PromptEncoder:
        """The text encoders, with their counts."""
        return self._encoder

    @property
    def adapters(self) -> Adapters:
        """The LoRA adapters that are loaded."""
        return self._adapters

    def peak_memory_bytes(self) -> int | None:
        return self._device.peak_bytes()

    def free_memory(self) -> None:
        self._device.free_cache()

    def advance(self, batch: Pass) -> list[Advanced]:
        self._device.begin_peak()
        for number in batch.leaving:
            self._samples.pop(number, None)
        try:
            with torch.inference_mode():
                return self._advance(batch)
        except torch.OutOfMemoryError:
            pass
        except RuntimeError as error:
            if not any(mark in str(error) for mark in NO_MEMORY):
                raise
        key = batch.key
        raise OutOfMemory(f"{len(batch.samples)} images of {key.width} x {key.height} do not fit in memory.")

    def _advance(self, batch: Pass) -> list[Advanced]:
        # Out of the table at once, and back at the end: whatever is raised in between, they are forgotten.
        held = {number: self._samples.pop(number, None) for number in batch.samples}
        self._adapt(batch.key)
        joined = self._denoiser.join(batch.key, list(batch.joining.values()))
        held.update(zip(batch.joining, joined, strict=True))
        samples = [sample for sample in held.values() if sample is not None]
        if len(samples) != len(batch.samples):
            raise ValueError("The pass names samples that have not joined, or names one twice.")
        self._step(batch.key, samples)
        finished = [sample for sample in samples if sample.finished]
        shown = [
            replace(sample, latents=sample.predict_x0) for sample in samples if sample.predict_x0 is not None
        ]
        decoded = self._decoder.decode([*finished, *shown]) if finished or shown else []
        pictures, previews = iter(decoded[: len(finished)]), iter(decoded[len(finished) :])
        answers: list[Advanced] = []
        for number, sample in zip(batch.samples, samples, strict=True):
            if not sample.finished:
                self._samples[number] = sample
                preview = None if sample.predict_x0 is None else _preview(sample, next(previews))
                answers.append(Progress(sample.solver_state.step, sample.solver_state.steps, preview))
                continue
            picture = next(pictures)
            if isinstance(picture, ImageFault) and self._dtype is not torch.float32:
                picture = self._again(batch.key, sample.task)
            answers.append(picture)
        return answers

    def _adapt(self, key: BatchKey) -> None:
        self._adapters.use(key.lora, key.lora_scale)
        self._encoder.variant = self._adapters.text_variant()

    def _try_adapters(self, spec: ModelSpec) -> None:
        """A picture by each. Raises `ModelLoadError` for one that makes none."""
        for lora in spec.loras:
            (drawn,) = self._draw(spec, ["warm up"], steps=spec.min_steps, lora=lora.name)
            if isinstance(drawn, ImageFault):
                raise ModelLoadError(f"DARKROOM_LORAS: {lora.name} makes no picture: {drawn.message}")

    def _again(self, key: BatchKey, task: ImageTask) -> Pixels | ImageFault:
        """The image alone from its start in single precision: half precision has a tenth of a percent of its range."""
        log.warning("retried_in_float32", width=key.width, height=key.height)
        with self._eager(), self._in_float32():
            (sample,) = self._denoiser.join(key, [task])
            while not sample.finished:
                self._step(key, [sample])
            return self._decoder.decode([sample])[0]

    @contextmanager
    def _eager(self) -> Iterator[None]:
        """Around changes of the weights: nothing that was recorded with the old ones is replayed."""
        with self._denoiser.eager(), self._decoder.eager():
            yield

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        models = [each for each in self._pipeline.components.values() if isinstance(each, torch.nn.Module)]
        before = [next(model.parameters()).dtype for model in models]
        self._encoder.forget()
        # Not every kernel takes single precision: PyTorch picks one that does.
        kernel, self._kernel = self._kernel, attention.Kernel("sdpa", self._pipeline.unet.device)
        processors = dict(self._pipeline.unet.attn_processors)
        self._pipeline.unet.set_attn_processor(attention.Processor(self._kernel.attend))
        try:
            for model in models:
                model.to(torch.float32)
            yield
        finally:
            # What was half precision comes back as it was: single precision holds it exactly.
            for model, dtype in zip(models, before, strict=True):
                model.to(dtype)
            self._pipeline.unet.set_attn_processor(processors)
            self._kernel = kernel
            self._encoder.forget()

    def _step(self, key: BatchKey, samples: list[Sample]) -> None:
        with self._kernel():
            self._denoiser.step(key, samples)

    def _draw(
        self, spec: ModelSpec, prompts: list[str], *, steps: int, lora: str = ""
    ) -> list[Pixels | ImageFault]:
        """Pictures of the model's default kind, all in one batch, seeds from 0 up."""
        scale = spec.default_guidance_scale
        key = BatchKey(spec.name, spec.default_width, spec.default_height, scale > 1, lora, 1.0)
        tasks = [ImageTask(prompt, "", seed, steps, scale) for seed, prompt in enumerate(prompts)]
        self._adapt(key)
        with torch.inference_mode():
            samples = self._denoiser.join(key, tasks)
            while not samples[0].finished:
                self._step(key, samples)
            return self._decoder.decode(samples)

    def _quantise(self, spec: ModelSpec) -> None:
        """Unet and text encoders to eight bits, unless the pictures suffer. Raises `ModelLoadError` when they do."""
        names = ("unet", "text_encoder", "text_encoder_2")
        models = {name: getattr(self._pipeline, name, None) for name in names}

        def draw(prompt: str) -> Pixels | ImageFault:
            self._encoder.forget()
            return self._draw(spec, [prompt], steps=spec.default_steps)[0]

        made = Quantiser(
            self._settings,
            {name: model for name, model in models.items() if model is not None},
            draw,
            nullcontext if self._dtype is torch.float32 else self._in_float32,
        ).run()
        self._encoder.forget()
        log.info("quantised", quality=str(made.quality), kept=len(made.kept), shrink=round(made.shrink, 2))

    def _about(self, loaded: Loaded, spec: ModelSpec) -> dict[str, str | int]:
        return {
            "device": spec.device,
            "dtype": spec.dtype,
            "attention": spec.attention,
            "vae": self._settings.vae,
            "max_batch": spec.max_batch,
            "weights_bytes": loaded.plan.weights_bytes,
            "image_bytes": loaded.plan.denoise_bytes,
        }


def _preview(sample: Sample, picture: Pixels | ImageFault) -> Preview | None:
    """What is no picture yet may become one."""
    if sample.shown is None or isinstance(picture, ImageFault):
        return None
    return Preview(sample.shown, picture)
