"""Writes a stage's weights as a folder that `StableDiffusionPipeline.from_pretrained` loads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from transformers import CLIPTokenizer

from models.recipe import autoencoder, networks, painter


def assemble(
    vae_path: Path, painter_path: Path, tokenizer: CLIPTokenizer, scaling_factor: float
) -> StableDiffusionPipeline:
    """The pipeline of a painter's checkpoint, in single precision."""
    vae = autoencoder.load(vae_path)
    vae.register_to_config(scaling_factor=scaling_factor)
    model = painter.load(painter_path, tokenizer)
    model.unet.set_attn_processor(AttnProcessor2_0())
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=networks.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Saves in half precision beside the folder, then moves each file into place."""
    fresh = folder.with_name(f".{folder.name}.fresh")
    pipeline.to(torch.float16).save_pretrained(fresh, safe_serialization=True)
    index = json.loads((fresh / "model_index.json").read_text())
    index["_name_or_path"] = folder.name
    (fresh / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    vae = json.loads((fresh / "vae" / "config.json").read_text())
    vae.pop("block_out_channels", None)  # derived by diffusers, which then warns about it
    (fresh / "vae" / "config.json").write_text(json.dumps(vae, indent=2) + "\n")
    for source in sorted(p for p in fresh.rglob("*") if p.is_file()):
        target = folder / source.relative_to(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    for empty in sorted((p for p in fresh.rglob("*")), reverse=True):
        empty.rmdir()
    fresh.rmdir()
