"""Begins from the shipped folders: their weights as checkpoints, where no training run is at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel

from models.recipe import common
from models.recipe.common import Settings

FOLDERS = {"distil": "emoji-turbo", "teacher": "emoji-base"}


def painter_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder's text encoder and UNet under a painter's names, in single precision."""
    parts = {
        "encoder": CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True),
        "unet": UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True),
    }
    return {
        f"{part}.{name}": value.float()
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }


def unpack(settings: Settings, models: Path) -> None:
    """Writes tokenizer and checkpoints for the stages after `distil` from the folders in `models`.

    The averages alone are known, so these checkpoints can be begun from, but not resumed.
    """
    student = models / FOLDERS["distil"]
    shutil.copytree(student / "tokenizer", settings.work / "tokenizer", dirs_exist_ok=True)
    vae = AutoencoderTiny.from_pretrained(student / "vae", local_files_only=True).float()
    state = {"average": vae.state_dict(), "scaling_factor": float(vae.config.scaling_factor)}
    common.save_checkpoint(settings.work / "autoencoder.pt", state)
    for stage, name in FOLDERS.items():
        weights = painter_weights(models / name)
        common.save_checkpoint(settings.work / f"{stage}.pt", {"average": weights})
