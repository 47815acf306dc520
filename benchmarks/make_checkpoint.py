"""A model folder with SD-Turbo's true layout and sizes, and random weights: to measure what does not depend on what was learnt.

    python -m benchmarks.make_checkpoint FOLDER [--dtype float16] [--small]

Loading, memory, precision, attention and speed are those of `stabilityai/sd-turbo` (UNet 866 M, text encoder 340 M and VAE 84 M
parameters); the pictures are noise, and the folder's name says so. `--small` keeps every layer and makes it narrow, for tests.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

NAME = "sd-turbo-random-weights"
PARAMETERS = {"unet": 865_910_724, "text_encoder": 340_387_840, "vae": 83_653_863}
"""Of the real one, by component."""
VOCABULARY = 49_408
SMALL = 8
"""How many times narrower a small one is."""
START, END = "<|startoftext|>", "<|endoftext|>"


def unet(narrow: int) -> Any:
    """The UNet of Stable Diffusion 2, `narrow` times narrower."""
    heads = [max(1, each // narrow) for each in (5, 10, 20, 20)]
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=tuple(64 * each for each in heads),
        attention_head_dim=tuple(heads),
        cross_attention_dim=1024 // narrow,
        use_linear_projection=True,
    )


def text_encoder(narrow: int) -> Any:
    """OpenCLIP's ViT-H text encoder without its last layer, as Stable Diffusion 2 has it."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=1024 // narrow,
            intermediate_size=4096 // narrow,
            num_hidden_layers=23,
            num_attention_heads=max(1, 16 // narrow),
            projection_dim=512,
            hidden_act="gelu",
            bos_token_id=VOCABULARY - 2,
            eos_token_id=VOCABULARY - 1,
        )
    )


def vae(narrow: int) -> Any:
    """The VAE of every Stable Diffusion up to 2."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=tuple(max(32, each // narrow) for each in (128, 256, 512, 512)),
        layers_per_block=2,
        latent_channels=4,
        sample_size=768,
    )


def tokenizer() -> Any:
    """CLIP's tokenizer without merges, which are learnt: a token for each letter, ids over the whole vocabulary's range."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    words += [f"<|unused-{i}|>" for i in range(VOCABULARY - 2 - len(words))]
    table = {word: i for i, word in enumerate([*words, START, END])}
    return CLIPTokenizer(vocab=table, merges=[], model_max_length=77, pad_token=words[0])


def make(folder: Path, dtype: torch.dtype = torch.float16, *, narrow: int = 1, device: str = "cpu") -> Path:
    """Writes the model, its weights drawn on `device`; answers its folder."""
    torch.manual_seed(0)
    with torch.device(device):
        parts = {"unet": unet(narrow), "text_encoder": text_encoder(narrow), "vae": vae(narrow)}
    if narrow == 1:
        counted = {name: sum(each.numel() for each in part.parameters()) for name, part in parts.items()}
        assert counted == PARAMETERS, counted
    pipeline = StableDiffusionPipeline(
        **{name: part.to(dtype) for name, part in parts.items()},
        tokenizer=tokenizer(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="trailing",
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made = folder / NAME
    pipeline.save_pretrained(made, safe_serialization=True)
    (made / "README.md").write_text(
        f"# {NAME}\n\nSD-Turbo's layout with random weights, for measurements: it paints noise.\n"
    )
    return made


def tiny(folder: Path) -> None:
    """Into `folder`, a decoder of TAESD's layout, with random weights too."""
    torch.manual_seed(0)
    AutoencoderTiny().to(torch.float16).save_pretrained(folder, safe_serialization=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    print(make(args.folder, getattr(torch, args.dtype), narrow=SMALL if args.small else 1))


if __name__ == "__main__":
    main()
