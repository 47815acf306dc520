"""What `DARKROOM_CLIP` names: a CLIP or SigLIP model, its files checked, before any weights are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPConfig, CLIPVisionModelWithProjection, SiglipConfig, SiglipVisionModel
from transformers.image_processing_backends import PilBackend
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from contracts.errors import SettingsError
from contracts.model_source import digest, local_folder, name_of
from worker.engine import checkpoint, hub
from worker.engine.errors import ModelLoadError
from worker.engine.memory_plan import peak_of

SETTING: Final = "DARKROOM_CLIP="
KINDS: Final = {
    "clip": (CLIPConfig, CLIPVisionModelWithProjection, CLIPImageProcessorPil),
    "siglip": (SiglipConfig, SiglipVisionModel, SiglipImageProcessorPil),
}
"""By the `model_type` of a configuration: its class, the vision part, and the image processor."""
MODES: Final = {2: "bilinear", 3: "bicubic"}
"""The resampling methods of Pillow that torch has too, by their numbers there."""
LEVELS: Final = 255.0
"""The brightest level of an image."""
BROKEN: Final = (*hub.FAILURES, KeyError, TypeError, RuntimeError, StrictDataclassError)
"""What transformers raises for a configuration or weights that it cannot use."""
FLOAT32_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the network's input, as `preprocessor_config.json` says.

    `resize` is a height and a width, or the length of the shorter side, or None: images keep their
    size. `crop` is the height and width of the part in the middle; None: the whole image. `scale`,
    `mean` and `std` turn levels of 0 to 255 into the input: `(level * scale - mean) / std`.
    """

    resize: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    mode: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, levels: torch.Tensor) -> torch.Tensor:
        """Map `levels`, (B, 3, H, W), float32 from 0 to 255, to the input (B, 3, h, w), float32.

        Works on the device of `levels`. It follows Pillow, whose images hold whole levels. Raises
        `ValueError` if an image is smaller than its crop.
        """
        height, width = levels.shape[-2:]
        size = self._size(height, width)
        # Pillow resizes the rows, then the columns, and rounds after each (of a tall image, since its version
        # 13, the columns first). With `antialias`, torch has its filters.
        for step in ((height, size[1]), size):
            if step != tuple(levels.shape[-2:]):
                levels = F.interpolate(levels, step, mode=self.mode, antialias=True)
                levels = levels.round_().clamp_(0, LEVELS)
        if self.crop is not None:
            top, left = ((side - part) // 2 for side, part in zip(size, self.crop, strict=True))
            if top < 0 or left < 0:
                raise ValueError(f"an image of {size[1]}x{size[0]} is smaller than its crop")
            levels = levels[..., top : top + self.crop[0], left : left + self.crop[1]]
        mean, std = (
            torch.tensor(values, device=levels.device).view(1, -1, 1, 1) for values in (self.mean, self.std)
        )
        return (levels * self.scale - mean) / std

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """The size of an image before it is cropped."""
        if self.resize is None:
            return height, width
        if isinstance(self.resize, tuple):
            return self.resize
        # As transformers' `get_resize_output_image_size` rounds the longer side.
        long = int(self.resize * max(height, width) / min(height, width))
        return (long, self.resize) if width <= height else (self.resize, long)


@dataclass(frozen=True, slots=True)
class ClipSource:
    """A model whose files were checked. `identity` is its name and revision, `name@revision`.

    `config` is the configuration of its vision part, of which `network` is the class.
    """

    setting: str
    folder: Path
    identity: str
    config: Any
    network: Any
    preprocessing: Preprocessing

    def memory(self, side: int) -> tuple[int, int]:
        """Return the bytes of the vision part's weights, and those that one image adds to a pass.

        The image has `side` x `side` pixels. Nothing is read: the pass runs on the meta device.
        """
        with torch.device("meta"):
            network = self.network(self.config).float().eval()
        weights = sum(parameter.numel() for parameter in network.parameters()) * FLOAT32_BYTES

        def embed(count: int) -> int:
            def run() -> None:
                levels = torch.empty(count, 3, side, side, device="meta")
                features(network, self.preprocessing.apply(levels))

            return peak_of(run)

        try:
            return weights, embed(2) - embed(1)
        except (RuntimeError, ValueError) as error:
            raise ModelLoadError(f"{SETTING}{self.setting} does not embed its own input: {error}") from error


def read(setting: str) -> ClipSource:
    """Find the model that `setting` names, and check its files: a folder, an embedded model, or a hub id.

    A hub id may end in `@` and a revision. Raises `ModelLoadError`, which says what is wrong, and its
    subclass `ModelLoadRetryable` if the hub or the network is at fault.
    """
    folder, identity = _fetch(setting)
    kind = checkpoint.config(folder).get("model_type")
    if kind not in KINDS:
        raise ModelLoadError(f"{SETTING}{setting} is a {kind}; images are embedded by {' and '.join(KINDS)}.")
    for path in checkpoint.weight_files(folder, None):
        checkpoint.header(path)
    config_class, network, processor_class = KINDS[kind]
    try:
        whole: Any = config_class.from_pretrained(folder, local_files_only=True)
        processor: Any = processor_class.from_pretrained(folder, local_files_only=True)
        config = whole.vision_config
        if kind == "clip":
            # The vision part's own value is not used by the whole model, and may be another.
            config.projection_dim = whole.projection_dim
        elif not config.vision_use_head:
            raise ModelLoadError(f"{SETTING}{setting} has no head: it embeds parts of an image, not images.")
        preprocessing = _preprocessing(processor, setting)
    except BROKEN as error:
        raise hub.refusal(f"{SETTING}{setting} cannot be loaded", error) from error
    return ClipSource(setting, folder, identity, config, network, preprocessing)


def features(network: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return the features (B, D) of the network's input (B, 3, h, w), in the network's dtype."""
    output = network(pixel_values=pixels)
    embeds = getattr(output, "image_embeds", None)
    return cast("torch.Tensor", output.pooler_output if embeds is None else embeds)


def _fetch(setting: str) -> tuple[Path, str]:
    """The folder of the model, and its identity."""
    source, _, revision = (setting, "", "") if Path(setting).is_dir() else setting.partition("@")
    try:
        local = local_folder(source, SETTING, "preprocessor_config.json")
    except SettingsError as error:
        raise ModelLoadError(str(error)) from error
    if local is not None:
        if revision:
            raise ModelLoadError(f"{SETTING}{setting}: a folder has no revisions.")
        return local, f"{name_of(source)}@{digest(local)}"
    # The hub's cache names the folder by the commit.
    folder = hub.fetch_files(SETTING, source, revision or None, ("*.json", "*.safetensors"))
    return folder, f"{name_of(source)}@{folder.name}"


def _preprocessing(processor: PilBackend, setting: str) -> Preprocessing:
    values: Any = processor
    if values.resample not in MODES:
        raise ModelLoadError(
            f"{SETTING}{setting} resizes images by method {values.resample}, which torch lacks."
        )
    plain = not values.do_normalize
    return Preprocessing(
        resize=_sides(values.size) if values.do_resize else None,
        crop=_rectangle(values.crop_size) if values.do_center_crop else None,
        mode=MODES[values.resample],
        scale=values.rescale_factor if values.do_rescale else 1.0,
        mean=(0.0,) if plain else _numbers(values.image_mean),
        std=(1.0,) if plain else _numbers(values.image_std),
    )


def _sides(size: Any) -> tuple[int, int] | int:
    shortest = size.get("shortest_edge")
    return _rectangle(size) if shortest is None else int(shortest)


def _rectangle(size: Any) -> tuple[int, int]:
    return int(size["height"]), int(size["width"])


def _numbers(values: float | Sequence[float]) -> tuple[float, ...]:
    return (float(values),) if isinstance(values, int | float) else tuple(map(float, values))
