"""A small CLIP that finds pictures of the student by words and by pictures.

Contrastive training as in Radford et al. 2021, "Learning transferable visual models from natural language
supervision", with three changes. A text has every picture that fits it as a positive, and no such picture as a
negative (Khosla et al. 2020, "Supervised contrastive learning"). Two damaged views of one picture are positives
too, and other seeds of the same prompt are their negatives (Mu et al. 2021, "SLIP"). Most steps look at half of
the patches (Li et al. 2022, "Scaling language-image pre-training via masking"). The model loads through
`transformers.CLIPModel`, as a real one does.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import CLIPTokenizer

from models.recipe import (
    captions,
    clip_batches,
    clip_network,
    common,
    data,
    drawn,
    export,
    painter,
    queries,
    text,
)
from models.recipe.common import Settings
from models.recipe.muon import Muon

LR = 1e-3
MASKED_SHARE = 0.7
"""The share of all steps, from the first, that look at half of the patches."""


def optimisers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and ".layers." in name else rest).append(parameter)
    return [Muon(matrices, 2 * LR), torch.optim.AdamW(rest, LR, betas=(0.9, 0.98), weight_decay=0.0)]


def tokenizer(settings: Settings, writer: queries.Writer) -> CLIPTokenizer:
    """The tokenizer of queries."""
    words = text.tokenizer(settings.work / "clip-tokenizer", writer.all_texts())
    words.model_max_length = clip_network.LENGTH
    return words


def pictures_of_student(settings: Settings, emoji: data.EmojiSet) -> drawn.Drawn | None:
    """Pictures by the newest student: of this run, or else the shipped one. None where there is neither."""
    path = settings.work / "drawn.npz"
    made = drawn.load(path)
    if made is not None:
        return made
    if (settings.work / "distil.pt").exists():
        words = text.tokenizer(settings.work / "tokenizer", captions.Composer(emoji.concepts).all_texts())
        factor = painter.Bank.of(settings, emoji).scaling_factor
        pipe = export.assemble(settings.work / "autoencoder.pt", settings.work / "distil.pt", words, factor)
    elif (settings.out / "emoji-turbo").exists():
        pipe = drawn.open_student(settings.out / "emoji-turbo")
    else:
        return None
    made = drawn.draw(pipe, drawn.requests(emoji), settings.seed)
    drawn.save(path, made)
    return made


def train(settings: Settings, emoji: data.EmojiSet) -> Path:
    """Trains or resumes; returns the checkpoint."""
    steps = settings.steps or (20 if settings.quick else 3000)
    path = settings.work / "clip.pt"
    torch.manual_seed(settings.seed)
    writer = queries.Writer(emoji.concepts)
    words = tokenizer(settings, writer)
    pool = clip_batches.Pool(emoji, pictures_of_student(settings, emoji))
    model = clip_network.Trained(words)
    optimiser = optimisers(model)
    peaks = [group["lr"] for each in optimiser for group in each.param_groups]
    start = 0
    state = common.load_checkpoint(path) if settings.resume else None
    if state:
        model.load_state_dict(state["model"])
        for each, saved in zip(optimiser, state["optimisers"], strict=True):
            each.load_state_dict(saved)
        start = state["step"]
    else:
        clip_network.begin(model.clip, settings.out / "emoji-clip")
    average = common.Average(model, 0.995)
    if state:
        average.module.load_state_dict(state["average"])
        average.seen = start
    running = 0.0
    with common.bar(steps, start, "clip") as progress:
        for step in range(start, steps):
            rng = np.random.default_rng((settings.seed, 3, step))
            torch.manual_seed(settings.seed * 1_000_003 + step)
            batch = pool.batch(rng, step)
            asked = clip_batches.written(writer, rng, batch.attributes)
            fit = torch.from_numpy(queries.fits(asked, batch.attributes))
            ids = clip_network.ids_of(words, [query.text for query in asked])
            patches = clip_network.PATCHES // 2 if step < MASKED_SHARE * steps else None
            loss = model(batch.pictures, batch.identity, ids, fit, patches)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group, peak in zip((g for each in optimiser for g in each.param_groups), peaks, strict=True):
                group["lr"] = peak * common.schedule(step, steps)
            for each in optimiser:
                each.step()
                each.zero_grad(set_to_none=True)
            average.update(model)
            running = loss.item() if step == start else 0.98 * running + 0.02 * loss.item()
            progress.update()
            if step + 1 == steps or step % 100 == 99:
                progress.set_postfix(loss=f"{running:.4f}")
                common.save_checkpoint(
                    path,
                    {
                        "model": model.state_dict(),
                        "average": average.module.state_dict(),
                        "optimisers": [each.state_dict() for each in optimiser],
                        "step": step + 1,
                    },
                )
    return path


def write(settings: Settings, emoji: data.EmojiSet, folder: Path) -> None:
    """The trained model as a folder that `CLIPModel.from_pretrained` loads, with its tokenizer and preprocessing."""
    state = common.load_checkpoint(settings.work / "clip.pt")
    if state is None:
        return
    words = tokenizer(settings, queries.Writer(emoji.concepts))
    model = clip_network.Trained(words)
    model.load_state_dict(state["average"])
    fresh = folder.with_name(f".{folder.name}.fresh")
    model.clip.to(torch.float16).save_pretrained(fresh)
    words.save_pretrained(fresh)
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": data.SIDE_PX},
        "do_center_crop": True,
        "crop_size": {"height": data.SIDE_PX, "width": data.SIDE_PX},
        "do_normalize": True,
        "image_mean": [clip_network.MEAN] * 3,
        "image_std": [clip_network.STD] * 3,
    }
    (fresh / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for source in fresh.iterdir():
        source.replace(folder / source.name)
    shutil.rmtree(fresh)
