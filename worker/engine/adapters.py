"""LoRA adapters: small changes of a model's weights by name, beside the weights and not in them (Hu et al. 2021, "LoRA").

Every adapter is loaded, by diffusers and PEFT, and tried before the worker is ready. A layer that one acts on keeps its weight W and adds
`scale * B A x` to its answer, so that turning to another adapter, or to none, moves no weights and leaves no rounding behind.
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
from contracts.settings import LoraSource, WorkerSettings
from telemetry.logs import get_logger
from worker.engine import checkpoint, hub
from worker.engine.errors import ModelLoadError

STANDARD: Final = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file in a folder."""
_MODELS: Final = ("unet", "text_encoder", "text_encoder_2")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Adapter:
    """`inner` is its name inside the models, which must not hold a dot. `texts`: whether it changes text encoders."""

    spec: LoraSpec
    inner: str
    texts: bool


class Adapters:
    """The adapters of a pipeline, of which at most one acts at a time."""

    def __init__(self, pipeline: Any, adapters: Sequence[Adapter]) -> None:
        self._pipeline = pipeline
        self._known = {each.spec.name: each for each in adapters}
        self._acts: tuple[str, float] | None = None
        self.switches = 0
        """How often another one had to be turned to."""

    @property
    def specs(self) -> tuple[LoraSpec, ...]:
        return tuple(each.spec for each in self._known.values())

    def use(self, name: str, scale: float) -> None:
        """From now on the adapter acts, by `scale`; an empty name: none does. Raises ValueError for one that is not loaded."""
        wanted = (name, scale) if name else ("", 0.0)
        if name and name not in self._known:
            raise ValueError(
                f"This worker has not loaded the adapter that the job names; it has {_listed(self._known)}."
            )
        if not self._known or wanted == self._acts:
            return
        # A switch that fails half way leaves nothing that the next pass would take for done.
        self._acts = None
        if name:
            self._pipeline.enable_lora()
            self._pipeline.set_adapters(self._known[name].inner, scale)
        else:
            self._pipeline.disable_lora()
        self._acts = wanted
        self.switches += 1

    def text_variant(self) -> tuple[str, float]:
        """What tells the embeddings of a text under the adapter that acts from those without: equal where it leaves texts alone."""
        name, scale = self._acts or ("", 0.0)
        return (name, scale) if name and self._known[name].texts else ("", 0.0)


def load(pipeline: Any, settings: WorkerSettings) -> Adapters:
    """The adapters of the settings, loaded into `pipeline`; none acts. Call before its layers are replaced.

    Raises `ModelLoadError` that names the adapter and what is wrong with it.
    """
    sources = settings.lora_sources
    if sources:
        _check_fits(settings)
    adapters = [_load(pipeline, source, f"lora_{number}") for number, source in enumerate(sources)]
    if adapters:
        for model in _models(pipeline).values():
            model.requires_grad_(False)
        pipeline.disable_lora()
    return Adapters(pipeline, adapters)


def _check_fits(settings: WorkerSettings) -> None:
    wishes = (
        ("compile", settings.compile),
        ("quantise", settings.quantise != "none"),
        ("graphs", settings.graphs != "off"),
    )
    for clash, wish in wishes:
        if wish:
            raise ModelLoadError(
                f"DARKROOM_LORAS does not go with DARKROOM_{clash.upper()}={getattr(settings, clash)}: an adapter acts beside "
                "layers that are neither compiled nor quantised nor recorded. Serve the adapters from workers without it, under another "
                "DARKROOM_MODEL_NAME."
            )
    if importlib.util.find_spec("peft") is None:
        raise ModelLoadError("DARKROOM_LORAS needs PEFT: pip install 'darkroom[worker]'.")


def _load(pipeline: Any, source: LoraSource, inner: str) -> Adapter:
    path, revision = _file(source)
    held = checkpoint.header(path)
    verbosity = diffusers_logging.get_verbosity()
    # What it only warns of is looked at below.
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)
    try:
        where = {"weight_name": path.name, "use_safetensors": True, "local_files_only": True}
        wanted, _ = pipeline.lora_state_dict(str(path.parent), unet_config=pipeline.unet.config, **where)
        with _texts_adapt(pipeline), warnings.catch_warnings():
            # That there are several is what is wanted.
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
            pipeline.load_lora_weights(str(path.parent), adapter_name=inner, **where)
    except (ValueError, KeyError, RuntimeError, OSError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__
        raise ModelLoadError(
            f"DARKROOM_LORAS: {source.name} ({path}) does not fit the model: {reason}"
        ) from error
    finally:
        diffusers_logging.set_verbosity(verbosity)
    placed = {name: _placed(model, inner) for name, model in _models(pipeline).items()}
    matrices = sum(each.ndim >= 2 for each in wanted.values())
    if not matrices or sum(placed.values()) != matrices:
        raise ModelLoadError(
            f"DARKROOM_LORAS: {source.name} ({path}) does not fit the model: {sum(placed.values())} of its {matrices} "
            "matrices have a place in it. Was it made for another?"
        )
    for model in _models(pipeline).values():
        # Not the model's own `to`, which warns of what does not matter here.
        torch.nn.Module.to(model, model.dtype)
    log.info("lora_loaded", lora=source.name, tensors=len(held), revision=revision)
    return Adapter(
        LoraSpec(name=source.name, revision=revision), inner, texts=sum(placed.values()) > placed["unet"]
    )


@contextmanager
def _texts_adapt(pipeline: Any) -> Iterator[None]:
    """Text encoders take adapters by PEFT's own two calls, to which `load_adapter` of transformers comes down here: that asks for
    a version of PEFT which is not released, for kinds of model that no pipeline of ours has."""
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
    """The adapter's file, and 16 hex digits of its contents."""
    place = Path(source.source)
    if not place.exists():
        if source.source.startswith((".", "/")) or source.source.count("/") != 1:
            raise ModelLoadError(
                f"DARKROOM_LORAS: {source.name}: {place} is no file or folder here, and no hub id (owner/name)."
            )
        place = _download(source)
    path = _chosen(place, source.name) if place.is_dir() else place
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


def _chosen(folder: Path, name: str) -> Path:
    """The one file of a folder that counts."""
    found = sorted(folder.glob("*.safetensors"))
    if (folder / STANDARD) in found:
        return folder / STANDARD
    if len(found) == 1:
        return found[0]
    if not found:
        raise ModelLoadError(
            f"DARKROOM_LORAS: {name}: {folder} holds no safetensors file; pickles are not loaded."
        )
    raise ModelLoadError(
        f"DARKROOM_LORAS: {name}: {folder} holds {len(found)} safetensors files; name the one that is meant."
    )


def _models(pipeline: Any) -> dict[str, Any]:
    return {name: model for name in _MODELS if (model := getattr(pipeline, name, None)) is not None}


def _placed(model: Any, inner: str) -> int:
    """How many matrices of the adapter the model holds."""
    return sum(f".{inner}." in name and each.ndim >= 2 for name, each in model.named_parameters())


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"
