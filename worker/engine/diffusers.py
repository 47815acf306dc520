"""Stable Diffusion through `diffusers`: loads a hub id or a folder, and takes samples a step on, pass by pass."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from contracts.engine import Advanced, BatchKey, ImageFault, ImageTask, Pass, Pixels, Progress
from contracts.errors import OutOfMemory
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from telemetry.logs import get_logger
from worker.engine.decode import decode
from worker.engine.profiles import profile_of
from worker.engine.samples import Denoiser, Sample
from worker.engine.schedule import sampler_of
from worker.engine.text import PromptEncoder

log = get_logger(__name__)


class DiffusersEngine:
    """The `ImageEngine` on torch: half precision with xformers or fused attention on CUDA, single precision on a CPU."""

    def __init__(self, settings: WorkerSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._samples: dict[int, Sample] = {}
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = device
        self._dtype = torch.float16 if device == "cuda" else torch.float32

    def load(self) -> ModelSpec:
        torch.set_num_threads(self._settings.torch_threads)
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        folder, revision = self._fetch()
        profile = profile_of(self._name)
        pipeline: Any = DiffusionPipeline.from_pretrained(
            folder, dtype=self._dtype, local_files_only=True, variant=_variant(folder)
        )
        pipeline.set_progress_bar_config(disable=True)
        if profile.distilled:
            pipeline.scheduler = EulerDiscreteScheduler.from_config(
                pipeline.scheduler.config, timestep_spacing="trailing"
            )
        self._pipeline = pipeline.to(self._device)
        if self._device == "cuda":
            self._use_xformers()
        self._encoder = PromptEncoder(pipeline, self._settings.prompt_cache)
        self._denoiser = Denoiser(pipeline, sampler_of(pipeline.scheduler), self._encoder)
        spec = self._spec(revision)
        key = BatchKey(spec.name, spec.default_width, spec.default_height, spec.default_guidance_scale > 1)
        task = ImageTask("warm up", "", 0, 1, spec.default_guidance_scale)
        self.advance(Pass(key, (0,), {0: task}, leaving=(0,)))
        self._samples.clear()
        return spec

    @property
    def prompts(self) -> PromptEncoder:
        """The text encoders, with their counts."""
        return self._encoder

    def advance(self, batch: Pass) -> list[Advanced]:
        for number in batch.leaving:
            self._samples.pop(number, None)
        try:
            with torch.inference_mode():
                return self._advance(batch)
        except torch.OutOfMemoryError:
            pass
        except RuntimeError as error:
            if "DefaultCPUAllocator" not in str(error):
                raise
        key = batch.key
        raise OutOfMemory(f"{len(batch.samples)} images of {key.width} x {key.height} do not fit in memory.")

    def peak_memory_bytes(self) -> int | None:
        if self._device != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return int(peak)

    def free_memory(self) -> None:
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _advance(self, batch: Pass) -> list[Advanced]:
        # Out of the table at once, and back at the end: whatever is raised in between, they are forgotten.
        held = {number: self._samples.pop(number, None) for number in batch.samples}
        joined = self._denoiser.join(batch.key, list(batch.joining.values()))
        held.update(zip(batch.joining, joined, strict=True))
        samples = [sample for sample in held.values() if sample is not None]
        if len(samples) != len(batch.samples):
            raise ValueError("The pass names samples that have not joined, or names one twice.")
        self._denoiser.step(batch.key, samples)
        finished = [sample for sample in samples if sample.finished]
        pictures = iter(decode(self._pipeline.vae, finished) if finished else ())
        answers: list[Advanced] = []
        for number, sample in zip(batch.samples, samples, strict=True):
            if not sample.finished:
                self._samples[number] = sample
                answers.append(Progress(sample.course.step, sample.course.steps))
                continue
            picture = next(pictures)
            if isinstance(picture, ImageFault) and self._dtype is not torch.float32:
                picture = self._again(batch.key, sample.task)
            answers.append(picture)
        return answers

    def _again(self, key: BatchKey, task: ImageTask) -> Pixels | ImageFault:
        """The image alone from its start in single precision: half precision has a tenth of a percent of its range."""
        log.warning("retried_in_float32", width=key.width, height=key.height)
        with self._in_float32():
            (sample,) = self._denoiser.join(key, [task])
            while not sample.finished:
                self._denoiser.step(key, [sample])
            return decode(self._pipeline.vae, [sample])[0]

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        models = [each for each in self._pipeline.components.values() if isinstance(each, torch.nn.Module)]
        before = [next(model.parameters()).dtype for model in models]
        self._encoder.forget()
        try:
            for model in models:
                model.to(torch.float32)
            yield
        finally:
            # What was half precision comes back as it was: single precision holds it exactly.
            for model, dtype in zip(models, before, strict=True):
                model.to(dtype)
            self._encoder.forget()

    def _fetch(self) -> tuple[Path, str]:
        """The model's folder and the revision of its weights."""
        local = Path(self._settings.model)
        if local.is_dir():
            return local, _digest(local)
        # The hub's own cache names the folder by the commit.
        folder = Path(self._download())
        return folder, folder.name

    def _download(self) -> str:
        wanted = {"pretrained_model_name": self._settings.model, "revision": self._settings.model_revision}
        if self._device == "cuda":
            with suppress(ValueError):
                # Half the bytes, where the hub has them; it has no better way to ask.
                return str(DiffusionPipeline.download(**wanted, variant="fp16"))
        return str(DiffusionPipeline.download(**wanted))

    def _use_xformers(self) -> None:
        try:
            self._pipeline.enable_xformers_memory_efficient_attention()
        except (ImportError, ModuleNotFoundError):
            log.info("attention", kernel="sdpa")
        else:
            log.info("attention", kernel="xformers")

    def _spec(self, revision: str) -> ModelSpec:
        pipeline, profile = self._pipeline, profile_of(self._name)
        factor: int = pipeline.vae_scale_factor
        config = pipeline.unet.config
        multiple = factor * 2 ** (len(config.block_out_channels) - 1)
        side = config.sample_size * factor
        largest = side * 3 // 2
        return ModelSpec(
            name=self._name,
            revision=revision,
            dtype=str(self._dtype).removeprefix("torch."),
            default_width=side,
            default_height=side,
            size_multiple=multiple,
            min_size=max(multiple, side // 2),
            max_size=largest,
            max_pixels=largest * largest,
            default_steps=profile.steps,
            max_steps=profile.max_steps,
            default_guidance_scale=profile.guidance_scale,
            max_guidance_scale=profile.max_guidance_scale,
            max_prompt_tokens=pipeline.tokenizer.model_max_length,
            max_batch=self._settings.max_batch,
            description=profile.description,
            device=torch.cuda.get_device_name() if self._device == "cuda" else _processor(),
        )


def _processor() -> str:
    """The processor's name, as Linux tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine() or "cpu"


def _variant(folder: Path) -> str | None:
    """`fp16` where the folder holds its weights under that name."""
    return "fp16" if any(folder.glob("unet/*.fp16.safetensors")) else None


def _digest(folder: Path) -> str:
    """16 hex digits of everything in the folder that is loaded."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors", ".txt", ".bin"):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
