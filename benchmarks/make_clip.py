"""A CLIP or SigLIP folder with a real one's layout and sizes, and random weights: to measure what does not depend on what was learnt.

    python -m benchmarks.make_clip FOLDER [--kind clip|siglip]

`clip` is OpenAI's ViT-B/32 (151 M parameters, of which the vision part has 88 M), `siglip` Google's base, patch 16, 224 pixels
(203 M and 93 M). The folder's name says what it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import torch
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

NAMES: Final = {
    "clip": "clip-vit-base-patch32-random-weights",
    "siglip": "siglip-base-patch16-224-random-weights",
}
PARAMETERS: Final = {"clip": 151_277_313, "siglip": 203_155_970}
"""Of the real ones, in all."""
VISION_PARAMETERS: Final = {"clip": 87_849_216, "siglip": 92_884_224}
"""Of the part that embeds images, its projection included."""
DIMENSIONS: Final = {"clip": 512, "siglip": 768}
_CLIP_MEAN: Final = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD: Final = [0.26862954, 0.26130258, 0.27577711]
PREPROCESSING: Final[dict[str, dict[str, Any]]] = {
    "clip": {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": _CLIP_MEAN,
        "image_std": _CLIP_STD,
        "resample": 3,
        "size": 224,
    },
    "siglip": {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "SiglipProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": 224, "width": 224},
    },
}
"""As the real folders write it: CLIP's in the form of the first transformers that had it."""


def model(kind: str) -> Any:
    """The model by its library's defaults, which are those of the real one."""
    return CLIPModel(CLIPConfig()) if kind == "clip" else SiglipModel(SiglipConfig())


def make(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Path:
    """Writes the model; answers its folder."""
    torch.manual_seed(0)
    made = folder / NAMES[kind]
    network = model(kind)
    assert sum(each.numel() for each in network.parameters()) == PARAMETERS[kind]
    network.to(dtype).save_pretrained(made, safe_serialization=True)
    (made / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING[kind], indent=1))
    (made / "README.md").write_text(
        f"# {NAMES[kind]}\n\nA real layout with random weights, for measurements: its embeddings mean nothing.\n"
    )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=tuple(NAMES), default="clip")
    args = parser.parse_args()
    print(make(args.folder, args.kind))


if __name__ == "__main__":
    main()
