"""Stable Diffusion through `diffusers`: loads a hub id or a folder, and denoises samples pass by pass."""

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
from worker.engine import attention, embedding
from worker.engine.adapters import Adapters
from worker.engine.decode import Decoder
from worker.engine.denoiser import Denoiser, Sample
from worker.engine.device import keep_memory, pick
from worker.engine.errors import ModelLoadError
from worker.engine.loading import Loaded, Loader
from worker.engine.memory_plan import Plan
from worker.engine.padded_batch import CudaRecorder
from worker.engine.quantising import Quantiser
from worker.engine.schedule import sampler_of
from worker.engine.specification import spec_of
from worker.engine.text import PromptEncoder

NO_MEMORY: Final = (
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)
"""Parts of messages of `RuntimeError` that mean out of memory.

torch's CPU allocator and libraries with their own allocators have no error class for it.
"""

log = get_logger(__name__)


class DiffusersEngine:
    """The `ImageEngine` on torch.

    By default it computes in half precision on an accelerator, and in single precision on a CPU.
    Raises `ModelLoadError` if the device is missing or lacks the arithmetic of the settings.
    """

    def __init__(self, settings: WorkerSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._samples: dict[int, Sample] = {}
        self._device = pick(settings.device)
        self._dtype = self._device.dtype(settings.precision)
        self._device.can_quantise(settings.quantise)

    def load(self) -> ModelSpec:
        """Load the model, prepare it for speed, and warm it up.

        Raises `worker.engine.errors.ModelLoadError`, which says what is wrong and what to do.
        """
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
        self._embedder = (
            None if loaded.clip is None else embedding.load(loaded.clip, self._device, fixed, recorder)
        )
        self._decoder = Decoder(pipeline, fixed, recorder, self._embedder)
        spec = spec_of(loaded, settings, self._name, self._device.name, self._dtype, self._kernel.name)
        attention.fuse_projections(pipeline.unet)
        if settings.quantise != "none":
            with self._eager():
                self._quantise(spec)
        self._try_adapters(spec)
        if settings.compile:
            # Blocks of one kind share one compilation. The whole UNet would take minutes.
            pipeline.unet.compile_repeated_blocks(fullgraph=True, dynamic=True)
        # A CPU needs one warm-up. An accelerator picks its algorithms by shape, so each batch size is warmed
        # up. The largest comes first: recordings of the others fit in its memory.
        sizes = range(spec.max_batch, 0, -1) if self._device.kind == "cuda" or settings.compile else [1]
        for size in sizes:
            self._draw(spec, ["warm up"] * size, steps=spec.min_steps)
            if self._embedder is not None:
                embedding.try_embedder(self._embedder, size, spec.default_width, self._device)
        log.info("engine_ready", **self._log_fields(loaded, spec))
        return spec

    @property
    def plan(self) -> Plan:
        """The memory plan, made before the weights were read."""
        return self._plan

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline, with its networks as they run."""
        return self._pipeline

    @property
    def prompts(self) -> PromptEncoder:
        """The prompt encoder, with its counts."""
        return self._encoder

    @property
    def adapters(self) -> Adapters:
        """The loaded LoRA adapters."""
        return self._adapters

    def peak_memory_bytes(self) -> int | None:
        """Return the peak device memory of the last pass, in bytes; None if the device does not report it."""
        return self._device.peak_bytes()

    def free_memory(self) -> None:
        """Free the caches of a failed pass. Raises if the device is lost."""
        self._device.free_cache()

    def advance(self, batch: Pass) -> list[Advanced]:
        """Run one pass and return one entry per sample, in the order of `batch.samples`.

        Raises `contracts.failures.OutOfMemory` if the pass does not fit in memory. Any other
        exception means that the whole pass failed. The samples of a failed pass are forgotten.
        """
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
        # The samples leave the table now and return at the end. After an exception they are forgotten.
        by_number = {number: self._samples.pop(number, None) for number in batch.samples}
        self._use_adapter(batch.key)
        joined = self._denoiser.join(batch.key, list(batch.joining.values()))
        by_number.update(zip(batch.joining, joined, strict=True))
        samples = [sample for sample in by_number.values() if sample is not None]
        if len(samples) != len(batch.samples):
            raise ValueError("The pass names samples that have not joined, or names one twice.")
        self._step(batch.key, samples)
        finished = [sample for sample in samples if sample.finished]
        previewed = [
            replace(sample, latents=sample.predict_x0) for sample in samples if sample.predict_x0 is not None
        ]
        samples_to_decode = [*finished, *previewed]
        decoded = self._decoder.decode(samples_to_decode, len(finished)) if samples_to_decode else []
        images, previews = iter(decoded[: len(finished)]), iter(decoded[len(finished) :])
        advanced: list[Advanced] = []
        for number, sample in zip(batch.samples, samples, strict=True):
            if not sample.finished:
                self._samples[number] = sample
                preview = None if sample.predict_x0 is None else _preview(sample, next(previews))
                advanced.append(Progress(sample.solver_state.step, sample.solver_state.steps, preview))
                continue
            image = next(images)
            if isinstance(image, ImageFault) and self._dtype is not torch.float32:
                image = self._again(batch.key, sample.task)
            advanced.append(image)
        return advanced

    def _use_adapter(self, key: BatchKey) -> None:
        self._adapters.use(key.lora, key.lora_scale)
        self._encoder.variant = self._adapters.text_variant()

    def _try_adapters(self, spec: ModelSpec) -> None:
        """Draw an image with each adapter. Raises `ModelLoadError` for an adapter whose image is invalid."""
        for lora in spec.loras:
            (image,) = self._draw(spec, ["warm up"], steps=spec.min_steps, lora=lora.name)
            if isinstance(image, ImageFault):
                raise ModelLoadError(f"DARKROOM_LORAS: {lora.name} makes no picture: {image.message}")

    def _again(self, key: BatchKey, task: ImageTask) -> Pixels | ImageFault:
        """Draw the image again, alone, from its first step, in single precision.

        Half precision has a tenth of a percent of its range.
        """
        log.warning("retried_in_float32", width=key.width, height=key.height)
        with self._eager(), self._in_float32():
            (sample,) = self._denoiser.join(key, [task])
            while not sample.finished:
                self._step(key, [sample])
            return self._decoder.decode([sample], 1)[0]

    @contextmanager
    def _eager(self) -> Iterator[None]:
        """A context for changes of the weights: inside, no recording of the old weights is replayed."""
        with self._denoiser.eager(), self._decoder.eager():
            yield

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        models = [model for model in self._pipeline.components.values() if isinstance(model, torch.nn.Module)]
        dtypes = [next(model.parameters()).dtype for model in models]
        self._encoder.forget()
        # Not every kernel supports single precision. `sdpa` lets PyTorch pick one that does.
        kernel, self._kernel = self._kernel, attention.Kernel("sdpa", self._pipeline.unet.device)
        processors = dict(self._pipeline.unet.attn_processors)
        self._pipeline.unet.set_attn_processor(attention.Processor(self._kernel.attend))
        try:
            for model in models:
                model.to(torch.float32)
            yield
        finally:
            # Single precision holds values of half precision exactly, so the weights come back unchanged.
            for model, dtype in zip(models, dtypes, strict=True):
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
        """Draw images of the model's default size in one batch, with the seeds 0, 1, 2 ..."""
        scale = spec.default_guidance_scale
        key = BatchKey(spec.name, spec.default_width, spec.default_height, scale > 1, lora, 1.0)
        tasks = [ImageTask(prompt, "", seed, steps, scale) for seed, prompt in enumerate(prompts)]
        self._use_adapter(key)
        with torch.inference_mode():
            samples = self._denoiser.join(key, tasks)
            while not samples[0].finished:
                self._step(key, samples)
            return self._decoder.decode(samples)

    def _quantise(self, spec: ModelSpec) -> None:
        """Quantise the UNet and the text encoders. Raises `ModelLoadError` if the images suffer too much."""
        names = ("unet", "text_encoder", "text_encoder_2")
        models = {name: getattr(self._pipeline, name, None) for name in names}

        def draw(prompt: str) -> Pixels | ImageFault:
            self._encoder.forget()
            return self._draw(spec, [prompt], steps=spec.default_steps)[0]

        quantised = Quantiser(
            self._settings,
            {name: model for name, model in models.items() if model is not None},
            draw,
            nullcontext if self._dtype is torch.float32 else self._in_float32,
        ).run()
        self._encoder.forget()
        log.info(
            "quantised",
            quality=str(quantised.quality),
            kept=len(quantised.kept),
            shrink=round(quantised.shrink, 2),
        )

    def _log_fields(self, loaded: Loaded, spec: ModelSpec) -> dict[str, str | int]:
        return {
            "device": spec.device,
            "dtype": spec.dtype,
            "attention": spec.attention,
            "vae": self._settings.vae,
            "max_batch": spec.max_batch,
            "weights_bytes": loaded.plan.weights_bytes,
            "image_bytes": loaded.plan.denoise_bytes,
        }


def _preview(sample: Sample, image: Pixels | ImageFault) -> Preview | None:
    """None for an invalid preview: the finished image may still be valid."""
    if sample.preview_index is None or isinstance(image, ImageFault):
        return None
    return Preview(sample.preview_index, image)
