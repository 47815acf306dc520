"""LoRA adapters: small, named changes to a model's weights (Hu et al. 2021, "LoRA").

diffusers and PEFT load every adapter. Each is tried before the worker is ready. An adapted layer
keeps its weight W and adds `scale * B A x` to its output. A switch to another adapter, or to none,
therefore moves no weights and leaves no rounding errors.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.utils import logging as diffusers_logging

from contracts.models import LoraSpec
from contracts.setting_types import LoraSource
from contracts.settings import WorkerSettings
from telemetry.logs import get_logger
from worker.engine import checkpoint, hub
from worker.engine.errors import ModelLoadError

STANDARD: Final = "pytorch_lora_weights.safetensors"
"""The name that diffusers gives to an adapter's file."""
_MODELS: Final = ("unet", "text_encoder", "text_encoder_2")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A loaded adapter.

    `peft_name` is its name inside the models, which must not contain a dot. `adapts_text` tells
    whether it changes the text encoders.
    """

    spec: LoraSpec
    peft_name: str
    adapts_text: bool


class Adapters:
    """The adapters of a pipeline. At most one is active at a time."""

    def __init__(self, pipeline: Any, adapters: Sequence[Adapter]) -> None:
        self._pipeline = pipeline
        self._adapters = {adapter.spec.name: adapter for adapter in adapters}
        self._active: tuple[str, float] | None = None
        self.switches = 0
        """How often the active adapter or its scale has changed."""

    @property
    def specs(self) -> tuple[LoraSpec, ...]:
        """The names and revisions of all loaded adapters."""
        return tuple(adapter.spec for adapter in self._adapters.values())

    def use(self, name: str, scale: float) -> None:
        """Activate the adapter `name` with `scale`; an empty name activates none.

        Raises `ValueError` for an adapter that is not loaded.
        """
        requested = (name, scale) if name else ("", 0.0)
        if name and name not in self._adapters:
            raise ValueError(
                f"This worker has not loaded the adapter that the job names; it has {_listed(self._adapters)}."
            )
        if not self._adapters or requested == self._active:
            return
        # Reset first: after a switch that fails halfway, the next batch must switch again.
        self._active = None
        if name:
            self._pipeline.enable_lora()
            self._pipeline.set_adapters(self._adapters[name].peft_name, scale)
        else:
            self._pipeline.disable_lora()
        self._active = requested
        self.switches += 1

    def text_variant(self) -> tuple[str, float]:
        """Return the part of the prompt cache's key that depends on the active adapter.

        It is the same as without an adapter if the active one does not change the text encoders.
        """
        name, scale = self._active or ("", 0.0)
        return (name, scale) if name and self._adapters[name].adapts_text else ("", 0.0)


def load(pipeline: Any, settings: WorkerSettings) -> Adapters:
    """Load the adapters of the settings into `pipeline`. None is active afterwards.

    Call it before layers of the pipeline are replaced. Raises `ModelLoadError`, which names the
    adapter and what is wrong with it.
    """
    sources = settings.lora_sources
    if sources:
        _check_settings(settings)
    adapters = [_load(pipeline, source, f"lora_{number}") for number, source in enumerate(sources)]
    if adapters:
        for model in _models(pipeline).values():
            model.requires_grad_(False)
        pipeline.disable_lora()
    return Adapters(pipeline, adapters)


def _check_settings(settings: WorkerSettings) -> None:
    settings_in_use = (
        ("compile", settings.compile),
        ("quantise", settings.quantise != "none"),
        ("graphs", settings.graphs != "off"),
    )
    for setting, in_use in settings_in_use:
        if in_use:
            raise ModelLoadError(
                f"DARKROOM_LORAS does not go with DARKROOM_{setting.upper()}={getattr(settings, setting)}: an adapter acts beside "
                "layers that are neither compiled nor quantised nor recorded. Serve the adapters from workers without it, under another "
                "DARKROOM_MODEL_NAME."
            )
    if importlib.util.find_spec("peft") is None:
        raise ModelLoadError("DARKROOM_LORAS needs PEFT: pip install 'darkroom[worker]'.")


def _load(pipeline: Any, source: LoraSource, peft_name: str) -> Adapter:
    path, revision = _file(source)
    tensors = checkpoint.shapes(path)
    verbosity = diffusers_logging.get_verbosity()
    # The checks below replace its warnings.
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)
    try:
        options = {"weight_name": path.name, "use_safetensors": True, "local_files_only": True}
        state_dict, _ = pipeline.lora_state_dict(
            str(path.parent), unet_config=pipeline.unet.config, **options
        )
        with _texts_adapt(pipeline), warnings.catch_warnings():
            # Several adapters in one model are intended here.
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
            pipeline.load_lora_weights(str(path.parent), adapter_name=peft_name, **options)
    except (ValueError, KeyError, RuntimeError, OSError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__
        raise ModelLoadError(
            f"DARKROOM_LORAS: {source.name} ({path}) does not fit the model: {reason}"
        ) from error
    finally:
        diffusers_logging.set_verbosity(verbosity)
    placed = {name: _count_matrices(model, peft_name) for name, model in _models(pipeline).items()}
    matrices = sum(tensor.ndim >= 2 for tensor in state_dict.values())
    if not matrices or sum(placed.values()) != matrices:
        raise ModelLoadError(
            f"DARKROOM_LORAS: {source.name} ({path}) does not fit the model: {sum(placed.values())} of its {matrices} "
            "matrices have a place in it. Was it made for another?"
        )
    for model in _models(pipeline).values():
        # `nn.Module.to`, because the model's `to` prints warnings that do not matter here.
        torch.nn.Module.to(model, model.dtype)
    log.info("lora_loaded", lora=source.name, tensors=len(tensors), revision=revision)
    return Adapter(
        LoraSpec(name=source.name, revision=revision),
        peft_name,
        adapts_text=sum(placed.values()) > placed["unet"],
    )


@contextmanager
def _texts_adapt(pipeline: Any) -> Iterator[None]:
    """Inside, text encoders load adapters by two calls of PEFT.

    `load_adapter` of transformers does no more than that for these models. But it requires a version
    of PEFT that is not released, for kinds of model that our pipelines do not have.
    """
    encoders = [model for name, model in _models(pipeline).items() if name != "unet"]
    for encoder in encoders:
        encoder.load_adapter = partial(_adapt_text, encoder)
    try:
        yield
    finally:
        for encoder in encoders:
            del encoder.load_adapter


def _adapt_text(
    encoder: Any, *, adapter_name: str, adapter_state_dict: Any, peft_config: Any, **_: Any
) -> None:
    from peft import inject_adapter_in_model, set_peft_model_state_dict

    inject_adapter_in_model(peft_config, encoder, adapter_name=adapter_name)
    set_peft_model_state_dict(encoder, adapter_state_dict, adapter_name)


def _file(source: LoraSource) -> tuple[Path, str]:
    """The adapter's file, and a digest of its contents as 16 hex digits."""
    location = Path(source.source)
    if not location.exists():
        if source.source.startswith((".", "/")) or source.source.count("/") != 1:
            raise ModelLoadError(
                f"DARKROOM_LORAS: {source.name}: {location} is no file or folder here, and no hub id (owner/name)."
            )
        location = _download(source)
    path = _choose_file(location, source.name) if location.is_dir() else location
    if path.suffix != ".safetensors":
        raise ModelLoadError(
            f"DARKROOM_LORAS: {source.name}: {path} is no safetensors file; others can run code when they are loaded."
        )
    return path, checkpoint.file_digest(path)


def _download(source: LoraSource) -> Path:
    if source.revision is None:
        raise ModelLoadError(
            f"DARKROOM_LORAS: {source.name}: {source.source} is no folder here; a hub id needs a commit: "
            f"{source.name}={source.source}@<40 hex digits>."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(source.source, revision=source.revision, allow_patterns=["*.safetensors"])
        )
    except hub.FAILURES as error:
        raise hub.refusal(
            f"DARKROOM_LORAS: {source.name}: {source.source} cannot be fetched", error
        ) from error


def _choose_file(folder: Path, name: str) -> Path:
    """The adapter's file in a folder: the one with the standard name, or the only one."""
    files = sorted(folder.glob("*.safetensors"))
    if (folder / STANDARD) in files:
        return folder / STANDARD
    if len(files) == 1:
        return files[0]
    if not files:
        raise ModelLoadError(
            f"DARKROOM_LORAS: {name}: {folder} holds no safetensors file; pickles are not loaded."
        )
    raise ModelLoadError(
        f"DARKROOM_LORAS: {name}: {folder} holds {len(files)} safetensors files; name the one that is meant."
    )


def _models(pipeline: Any) -> dict[str, Any]:
    return {name: model for name in _MODELS if (model := getattr(pipeline, name, None)) is not None}


def _count_matrices(model: Any, peft_name: str) -> int:
    """How many matrices of the adapter the model holds."""
    return sum(
        f".{peft_name}." in name and parameter.ndim >= 2 for name, parameter in model.named_parameters()
    )


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"
