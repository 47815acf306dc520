"""From a setting to a pipeline on the device: fetch, check, plan the memory, load, optimise the layout."""

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
from contracts.model_source import digest, local_folder
from contracts.settings import WorkerSettings
from worker.engine import adapters, checkpoint, clip_source, hub, memory_plan
from worker.engine.adapters import Adapters
from worker.engine.checkpoint import Checkpoint
from worker.engine.clip_source import ClipSource
from worker.engine.device import Device
from worker.engine.errors import ModelLoadError
from worker.engine.memory_plan import Plan
from worker.engine.norms import replace_group_norms
from worker.engine.profiles import Profile, profile_of
from worker.engine.upsample import fold

TINY: Final = {False: "madebyollin/taesd", True: "madebyollin/taesdxl"}
"""The tiny VAEs, by whether the model is an SDXL model."""
CLIP_TOKENS: Final = 77
"""How many tokens CLIP's text encoders read."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pipeline on its device.

    `revision` identifies the weights, and the VAE if another one replaces the model's own. `clip` is the
    model that embeds images, which is not loaded yet; None: there is none.
    """

    pipeline: Any
    revision: str
    profile: Profile
    plan: Plan
    max_batch: int
    adapters: Adapters
    clip: ClipSource | None


class Loader:
    """Loads the model of the settings onto `device` in `dtype`. `name` decides its default profile."""

    def __init__(self, settings: WorkerSettings, device: Device, dtype: torch.dtype, name: str) -> None:
        self._settings = settings
        self._device = device
        self._dtype = dtype
        self._name = name

    def load(self) -> Loaded:
        """Load the model. Raises `ModelLoadError`, which says what is wrong."""
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        folder, revision = self._fetch()
        # The folder with the weights holds the profile, whether it is local or in the hub's cache.
        profile = profile_of(self._name, folder, self._settings.max_num_inference_steps)
        contents = checkpoint.read(folder)
        vae = self._other_vae("text_encoder_2" in contents.parameters)
        clip = clip_source.read(self._settings.clip) if self._settings.clip else None
        plan = self._plan(contents, vae, profile, clip)
        batch = plan.largest_batch(self._settings.max_batch)
        try:
            pipeline: Any = DiffusionPipeline.from_pretrained(
                folder,
                dtype=self._dtype,
                local_files_only=True,
                use_safetensors=True,
                variant=contents.variant,
                **({"vae": vae} if vae is not None else {}),
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            # `checkpoint.read` cannot see this: weights that do not fit their configuration.
            raise ModelLoadError(f"{folder}: {error}") from error
        pipeline.set_progress_bar_config(disable=True)
        if profile.distilled:
            pipeline.scheduler = EulerDiscreteScheduler.from_config(
                pipeline.scheduler.config, timestep_spacing="trailing"
            )
        # Before layers are folded: a layer with an adapter must stay as it is.
        loras = adapters.load(pipeline, self._settings)
        self._place(pipeline)
        if not plan.decodes_whole(batch):
            pipeline.vae.enable_slicing()
        if vae is not None:
            revision = f"{revision}+{self._settings.vae}"
        return Loaded(pipeline, revision, profile, plan, batch, loras, clip)

    def _place(self, pipeline: Any) -> None:
        pipeline.to(self._device.torch_name)
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
        fold(pipeline.vae)
        if self._settings.quantise == "none":
            # Folded convolutions cannot be quantised.
            fold(pipeline.unet)
        if self._device.kind == "cuda":
            replace_group_norms(pipeline.unet)
            replace_group_norms(pipeline.vae)
        is_xl = getattr(pipeline, "text_encoder_2", None) is not None
        if self._dtype is not (dtype := self._vae_dtype(pipeline.vae.config, is_xl=is_xl)):
            pipeline.vae.to(dtype)

    def _vae_dtype(self, config: Any, *, is_xl: bool) -> torch.dtype:
        """The VAE's dtype. SDXL's own VAE overflows in half precision."""
        overflows = is_xl and self._dtype is torch.float16 and getattr(config, "force_upcast", False)
        return torch.float32 if overflows else self._dtype

    def _fetch(self) -> tuple[Path, str]:
        """The model's folder and the revision of its weights."""
        try:
            local = local_folder(self._settings.model)
        except SettingsError as error:
            raise ModelLoadError(str(error)) from error
        if local is not None:
            return local, digest(local)
        # The hub's cache names the folder by the commit.
        folder = hub.fetch(self._settings, halves=self._device.kind != "cpu")
        return folder, folder.name

    def _other_vae(self, is_xl: bool) -> Any:
        """The VAE that replaces the model's own, as the settings ask; None if none does."""
        setting = self._settings.vae
        if setting == "model":
            return None
        source = TINY[is_xl] if setting == "tiny" else setting
        local = Path(source)
        vae_class = _class_of(checkpoint.config(local), local) if local.is_dir() else AutoencoderTiny
        try:
            return vae_class.from_pretrained(source, dtype=self._dtype, use_safetensors=True)
        except (*hub.FAILURES, RuntimeError) as error:
            raise hub.refusal(f"DARKROOM_VAE={setting} cannot be loaded", error) from error

    def _plan(self, contents: Checkpoint, vae: Any, profile: Profile, clip: ClipSource | None) -> Plan:
        """The memory plan of weights and passes, made before any weights are read."""
        with torch.device("meta"):
            unet = _from_config(UNet2DConditionModel, checkpoint.config(contents.folder / "unet"))
            if vae is None:
                config = checkpoint.config(contents.folder / "vae")
                decoder = _from_config(_class_of(config, contents.folder / "vae"), config)
            else:
                decoder = _from_config(type(vae), vae.config)
        is_xl = "text_encoder_2" in contents.parameters
        # `nn.Module.to`, because the model's `to` prints warnings that do not matter on the meta device.
        torch.nn.Module.to(unet, self._dtype)
        torch.nn.Module.to(decoder, self._vae_dtype(decoder.config, is_xl=is_xl))
        factor = 2 ** (len(decoder.config.block_out_channels) - 1)
        side = unet.config.sample_size * factor
        denoise, decode = memory_plan.per_image(unet, decoder, side, factor, CLIP_TOKENS)
        if profile.guidance_scale > 1:
            # A guided image takes two rows of the UNet's batch.
            denoise *= 2
        clip_weights, embed = (0, 0) if clip is None else clip.memory(side)
        free = self._device.free_bytes()
        unquantised = Plan(
            contents.weights_bytes(self._dtype.itemsize) + clip_weights, denoise, decode, free, embed
        )
        if self._settings.quantise not in ("int8", "int8-dynamic"):
            return unquantised
        # The model is loaded and judged in full precision before it is quantised.
        unquantised.largest_batch(1)
        return Plan(
            contents.eight_bit_bytes(self._dtype.itemsize) + clip_weights, denoise, decode, free, embed
        )


def _class_of(config: dict[str, Any], folder: Path) -> Any:
    name = str(config.get("_class_name", ""))
    vae_class = getattr(diffusers, name, None)
    if vae_class is None or not name.startswith("Autoencoder"):
        raise ModelLoadError(
            f"{folder} holds no decoder that this diffusers knows: {name or 'it names no class'}."
        )
    return vae_class


def _from_config(model_class: Any, config: dict[str, Any]) -> Any:
    try:
        return model_class.from_config(config)
    except (TypeError, ValueError, KeyError) as error:
        raise ModelLoadError(
            f"The model's configuration does not describe a {model_class.__name__}: {error}"
        ) from error
