"""From a setting to a pipeline on the device: fetched, looked at, planned for, loaded, and laid out for speed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from diffusers import AutoencoderTiny, DiffusionPipeline, EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from contracts.errors import SettingsError
from contracts.model_source import local_folder
from contracts.settings import WorkerSettings
from worker.engine import adapters, checkpoint, hub, memory_plan
from worker.engine.adapters import Adapters
from worker.engine.checkpoint import Checkpoint
from worker.engine.device import Device
from worker.engine.errors import ModelLoadError
from worker.engine.memory_plan import Plan
from worker.engine.norms import replace_group_norms
from worker.engine.profiles import Profile, profile_of
from worker.engine.upsample import fold

TINY: Final = {False: "madebyollin/taesd", True: "madebyollin/taesdxl"}
"""The tiny decoders, by whether the model is of SDXL's family."""
CLIP_TOKENS: Final = 77


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pipeline on its device. `revision` changes with whatever decides pixels."""

    pipeline: Any
    revision: str
    profile: Profile
    plan: Plan
    max_batch: int
    adapters: Adapters


class Loader:
    """Loads the model of the settings. `load` raises `ModelLoadError`."""

    def __init__(self, settings: WorkerSettings, device: Device, dtype: torch.dtype, name: str) -> None:
        self._settings = settings
        self._device = device
        self._dtype = dtype
        self._name = name

    def load(self) -> Loaded:
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        folder, revision = self._fetch()
        # Of the folder that the weights come from, wherever it was found.
        profile = profile_of(self._name, folder, self._settings.max_num_inference_steps)
        found = checkpoint.read(folder)
        vae = self._other_vae("text_encoder_2" in found.parameters)
        plan = self._plan(found, vae, profile)
        batch = plan.largest_batch(self._settings.max_batch)
        try:
            pipeline: Any = DiffusionPipeline.from_pretrained(
                folder,
                dtype=self._dtype,
                local_files_only=True,
                use_safetensors=True,
                variant=found.variant,
                **({"vae": vae} if vae is not None else {}),
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            # What the files' names and sizes do not tell: weights that do not fit their configuration.
            raise ModelLoadError(f"{folder}: {error}") from error
        pipeline.set_progress_bar_config(disable=True)
        if profile.distilled:
            pipeline.scheduler = EulerDiscreteScheduler.from_config(
                pipeline.scheduler.config, timestep_spacing="trailing"
            )
        # Before layers are folded: one that an adapter acts on stays as it is.
        loras = adapters.load(pipeline, self._settings)
        self._place(pipeline)
        if not plan.decodes_whole(batch):
            pipeline.vae.enable_slicing()
        if vae is not None:
            revision = f"{revision}+{self._settings.vae}"
        return Loaded(pipeline, revision, profile, plan, batch, loras)

    def _place(self, pipeline: Any) -> None:
        pipeline.to(self._device.torch_name)
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
        fold(pipeline.vae)
        if self._settings.quantise == "none":
            # A folded convolution has no form in eight bits.
            fold(pipeline.unet)
        if self._device.kind == "cuda":
            replace_group_norms(pipeline.unet)
            replace_group_norms(pipeline.vae)
        is_xl = getattr(pipeline, "text_encoder_2", None) is not None
        if self._dtype is not (dtype := self._vae_dtype(pipeline.vae.config, is_xl=is_xl)):
            pipeline.vae.to(dtype)

    def _vae_dtype(self, config: Any, *, is_xl: bool) -> torch.dtype:
        """SDXL's own decoder overflows in half precision."""
        overflows = is_xl and self._dtype is torch.float16 and getattr(config, "force_upcast", False)
        return torch.float32 if overflows else self._dtype

    def _fetch(self) -> tuple[Path, str]:
        """The model's folder and the revision of its weights."""
        try:
            local = local_folder(self._settings.model)
        except SettingsError as error:
            raise ModelLoadError(str(error)) from error
        if local is not None:
            return local, checkpoint.digest(local)
        # The hub's own cache names the folder by the commit.
        folder = hub.fetch(self._settings, halves=self._device.kind != "cpu")
        return folder, folder.name

    def _other_vae(self, is_xl: bool) -> Any:
        """The decoder that was asked for in place of the model's own; None for that."""
        wish = self._settings.vae
        if wish == "model":
            return None
        source = TINY[is_xl] if wish == "tiny" else wish
        local = Path(source)
        kind = _class_of(checkpoint.config(local), local) if local.is_dir() else AutoencoderTiny
        try:
            return kind.from_pretrained(source, dtype=self._dtype, use_safetensors=True)
        except (*hub.FAILURES, RuntimeError) as error:
            raise hub.refusal(f"DARKROOM_VAE={wish} cannot be loaded", error) from error

    def _plan(self, found: Checkpoint, vae: Any, profile: Profile) -> Plan:
        """Before any weights are read: what they and a pass will take."""
        with torch.device("meta"):
            unet = _from_config(UNet2DConditionModel, checkpoint.config(found.folder / "unet"))
            if vae is None:
                own = checkpoint.config(found.folder / "vae")
                decoder = _from_config(_class_of(own, found.folder / "vae"), own)
            else:
                decoder = _from_config(type(vae), vae.config)
        is_xl = "text_encoder_2" in found.parameters
        # Not the model's own `to`, which warns of what does not matter without contents.
        torch.nn.Module.to(unet, self._dtype)
        torch.nn.Module.to(decoder, self._vae_dtype(decoder.config, is_xl=is_xl))
        factor = 2 ** (len(decoder.config.block_out_channels) - 1)
        side = unet.config.sample_size * factor
        denoise, decode = memory_plan.per_image(unet, decoder, side, factor, CLIP_TOKENS)
        if profile.guidance_scale > 1:
            # A guided image is two rows of the UNet's.
            denoise *= 2
        free = self._device.free_bytes()
        whole = Plan(found.weights_bytes(self._dtype.itemsize), denoise, decode, free)
        if self._settings.quantise not in ("int8", "int8-dynamic"):
            return whole
        # It is read and judged whole before it shrinks.
        whole.largest_batch(1)
        return Plan(found.eight_bit_bytes(self._dtype.itemsize), denoise, decode, free)


def _class_of(config: dict[str, Any], folder: Path) -> Any:
    name = str(config.get("_class_name", ""))
    kind = getattr(diffusers, name, None)
    if kind is None or not name.startswith("Autoencoder"):
        raise ModelLoadError(
            f"{folder} holds no decoder that this diffusers knows: {name or 'it names no class'}."
        )
    return kind


def _from_config(kind: Any, config: dict[str, Any]) -> Any:
    try:
        return kind.from_config(config)
    except (TypeError, ValueError, KeyError) as error:
        raise ModelLoadError(
            f"The model's configuration does not describe a {kind.__name__}: {error}"
        ) from error
