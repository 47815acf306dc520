"""A tiny CLIP on the same captions and pictures: says how well a picture fits a text.

Contrastive training as in Radford et al. 2021, "Learning transferable visual models from natural language supervision". It
loads through `transformers.CLIPModel`, as a real one does.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from models.recipe import captions, common, data, text
from models.recipe.common import Settings

BATCH = 128
LR = 1e-3
PATCH_PX = 8
WIDTH = 160
PROJECTION = 96
MEAN = STD = 0.5


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP for the tokenizer's words: 1.9 M parameters."""
    return CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "max_position_embeddings": common.TOKENS,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
            vision_config={
                "hidden_size": WIDTH,
                "intermediate_size": 3 * WIDTH,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": data.SIDE_PX,
                "patch_size": PATCH_PX,
            },
            projection_dim=PROJECTION,
        )
    )


def damaged(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, h, w) in [-1, 1] with noise, changed contrast, and half of them soft: a painter's are no better."""
    count = len(pictures)
    soft = torch.nn.functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    pictures = torch.where(torch.rand(count, 1, 1, 1) < 0.5, soft, pictures)
    contrast = 0.8 + 0.4 * torch.rand(count, 1, 1, 1)
    return pictures * contrast + 0.05 * torch.randn_like(pictures)


def train(settings: Settings, emoji: data.EmojiSet) -> Path:
    """Trains or resumes; returns the checkpoint."""
    steps = settings.steps or (20 if settings.quick else 3000)
    path = settings.work / "clip.pt"
    torch.manual_seed(settings.seed)
    composer = captions.Composer(emoji.concepts)
    tokenizer = text.tokenizer(settings.work / "tokenizer", composer.all_texts())
    canvases = data.canvases(emoji)
    model = build(tokenizer)
    optimiser = torch.optim.AdamW(model.parameters(), LR, betas=(0.9, 0.98), weight_decay=0.05)
    start = 0
    state = common.load_checkpoint(path) if settings.resume else None
    if state:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    with common.bar(steps, start, "clip") as progress:
        for step in range(start, steps):
            rng = np.random.default_rng((settings.seed, 3, step))
            torch.manual_seed(settings.seed * 1_000_003 + step)
            requests = composer.batch(rng, BATCH, step * BATCH)
            where = captions.settle(requests, torch.randn(BATCH, 4, 4, 4))
            pictures = torch.from_numpy(data.over(canvases[where[0], where[1], where[2]], where[3]))
            pixels = damaged(pictures.permute(0, 3, 1, 2).sub(MEAN).div(STD))
            ids = text.tokens(tokenizer, [request.caption for request in requests])
            for group in optimiser.param_groups:
                group["lr"] = LR * common.schedule(step, steps)
            with common.fast():
                loss = model(input_ids=ids, pixel_values=pixels, return_loss=True).loss
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            progress.update()
            if step + 1 == steps or step % 200 == 199:
                progress.set_postfix(loss=f"{loss.item():.4f}")
                common.save_checkpoint(
                    path,
                    {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1},
                )
    return path


def write(settings: Settings, emoji: data.EmojiSet, folder: Path) -> None:
    """The trained model as a folder that `CLIPModel.from_pretrained` loads, with its tokenizer and preprocessing."""
    state = common.load_checkpoint(settings.work / "clip.pt")
    if state is None:
        return
    composer = captions.Composer(emoji.concepts)
    tokenizer = text.tokenizer(settings.work / "tokenizer", composer.all_texts())
    model = build(tokenizer)
    model.load_state_dict(state["model"])
    fresh = folder.with_name(f".{folder.name}.fresh")
    model.to(torch.float16).save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": data.SIDE_PX},
        "do_center_crop": True,
        "crop_size": {"height": data.SIDE_PX, "width": data.SIDE_PX},
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    (fresh / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for source in fresh.iterdir():
        source.replace(folder / source.name)
    shutil.rmtree(fresh)
