"""Stable Diffusion through `diffusers`: loads a hub id or a folder, runs batches with one generator per image."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from contracts.engine import BatchKey, ImageFault, ImageTask, Pixels
from contracts.errors import InvalidOutput, OutOfMemory
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from telemetry.logs import get_logger
from worker.engine.profiles import profile_of

BLACK: Final = 2 / 255
"""A picture nowhere brighter than this is no picture: half precision has overflowed."""

log = get_logger(__name__)


class DiffusersEngine:
    """The `ImageEngine` on torch: half precision with xformers or fused attention on CUDA, single precision on a CPU."""

    def __init__(self, settings: WorkerSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._pipeline: Any = None
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
        spec = self._spec(revision)
        key = BatchKey(
            spec.name,
            spec.default_width,
            spec.default_height,
            spec.default_steps,
            spec.default_guidance_scale,
        )
        self.generate(key, [ImageTask("warm up", "", 0)])
        return spec

    def generate(self, key: BatchKey, tasks: list[ImageTask]) -> list[Pixels | ImageFault]:
        guided = key.guidance_scale > 1
        try:
            with torch.inference_mode():
                images: torch.Tensor = self._pipeline(
                    prompt=[task.prompt for task in tasks],
                    negative_prompt=[task.negative_prompt for task in tasks] if guided else None,
                    width=key.width,
                    height=key.height,
                    num_inference_steps=key.num_inference_steps,
                    guidance_scale=key.guidance_scale,
                    # On the CPU whatever the device: a seed means the same noise on every machine, in every batch.
                    generator=[torch.Generator("cpu").manual_seed(task.seed) for task in tasks],
                    output_type="pt",
                ).images
                images = images.float().cpu()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise OutOfMemory(
                f"{len(tasks)} images of {key.width} x {key.height} do not fit on the device."
            ) from None
        except RuntimeError as error:
            if "DefaultCPUAllocator" in str(error):
                raise OutOfMemory(
                    f"{len(tasks)} images of {key.width} x {key.height} do not fit in memory."
                ) from None
            raise
        return [self._checked(image, task, guided) for image, task in zip(images, tasks, strict=True)]

    def _checked(self, image: torch.Tensor, task: ImageTask, guided: bool) -> Pixels | ImageFault:
        """`image`, (3, height, width) in 0..1, as bytes, unless it is no picture."""
        if not torch.isfinite(image).all():
            return ImageFault(InvalidOutput.code, "The picture holds values that are no numbers.")
        if image.max() <= BLACK:
            return ImageFault(InvalidOutput.code, "The picture is black.")
        rgb = image.mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
        texts = {"prompt": task.prompt} | ({"negative_prompt": task.negative_prompt} if guided else {})
        warnings = tuple(
            f"{name} has {count} tokens; the model read the first {limit}."
            for name, text in texts.items()
            if (count := self._tokens(text)) > (limit := self._pipeline.tokenizer.model_max_length)
        )
        return Pixels(image.shape[2], image.shape[1], rgb.numpy().tobytes(), warnings)

    def _tokens(self, text: str) -> int:
        ids = self._pipeline.tokenizer(text, truncation=False, verbose=False).input_ids
        return len(ids)

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
        )


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
