"""The tokenizer, and the text side's head start.

Before any picture is painted, the text encoder and the UNet's text embedding learn to predict
PCA codes of the pictures through a throwaway linear head. It takes minutes and is what makes
the UNet's training converge.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import nn
from transformers import CLIPTokenizer

from models.recipe import captions, common, data, networks
from models.recipe.common import Settings

CODES = 192
VOCABULARY = 2700
BATCH = 256
_START, _END = "<|startoftext|>", "<|endoftext|>"


def learn_merges(texts: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges of the texts, under the CLIP tokenizer's own splitting rules."""
    rules = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.normalizer = rules.normalizer
    learner.pre_tokenizer = rules.pre_tokenizer
    learner.train_from_iterator(
        sorted(texts),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            min_frequency=2,
            end_of_word_suffix="</w>",
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    model: dict[str, Any] = json.loads(learner.to_str())["model"]
    return [tuple(m) if isinstance(m, list) else tuple(m.split()) for m in model["merges"]]


def tokenizer(folder: Path, texts: list[str]) -> CLIPTokenizer:
    """Trains a CLIP tokenizer on the texts, or loads the one trained before."""
    if not (folder / "tokenizer_config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        merges = learn_merges(texts)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        words = [*alphabet, *(letter + "</w>" for letter in alphabet)]
        words = list(dict.fromkeys([*words, *("".join(m) for m in merges), _START, _END]))
        vocabulary = {word: i for i, word in enumerate(words)}
        CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=common.TOKENS).save_pretrained(folder)
    loaded: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return loaded


def tokens(tokenizer_: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids (B, TOKENS), padded exactly as the pipeline pads them."""
    ids: torch.Tensor = tokenizer_(
        texts, padding="max_length", max_length=common.TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def codes_of(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """PCA of small pictures (N, D): the mean (D,) and the CODES leading directions (D, CODES)."""
    mean = pictures.mean(0)
    _, _, directions = torch.pca_lowrank(pictures - mean, min(CODES, *pictures.shape), center=False)
    return mean, directions


class Head(nn.Module):
    """The throwaway head: what the UNet's text embedding says, mapped to codes."""

    def __init__(self, embedding: nn.Module, codes: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.linear = nn.Linear(384, codes)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Codes (B, codes) from words (B, TOKENS, WIDTH)."""
        seen: torch.Tensor = self.linear(F.silu(self.embedding(words)))
        return seen


def train(settings: Settings, emoji: data.EmojiSet, folder: Path) -> Path:
    """Trains or resumes the head start; returns its checkpoint."""
    steps = settings.steps or (40 if settings.quick else 3000)
    path = settings.work / "text.pt"
    torch.manual_seed(settings.seed)
    composer = captions.Composer(emoji.concepts)
    words = tokenizer(folder, composer.all_texts())
    encoder, embedding = networks.text_encoder(words), networks.unet().add_embedding
    small = data.canvases(emoji, 16)
    every = np.stack(np.meshgrid(*map(np.arange, small.shape[:3]), indexing="ij"), -1).reshape(-1, 3)
    drawn = small[every[:, 0], every[:, 1], every[:, 2]]
    colours = np.random.default_rng(settings.seed).integers(len(data.COLOURS), size=len(drawn))
    flat = torch.from_numpy(data.over(drawn, colours)).reshape(len(drawn), -1)
    mean, directions = codes_of(flat)
    head = Head(embedding, directions.shape[1])
    model = nn.ModuleList([encoder, head])
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-3)
    start = 0
    state = common.load_checkpoint(path) if settings.resume else None
    if state:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    spread = ((flat - mean) @ directions).std(0)
    # Whitening by the square root of the spread: details count, yet less than outlines.
    weight = (spread + spread[0] * 0.01).rsqrt() / spread[0].rsqrt()
    with common.bar(steps, start, "text") as progress:
        for step in range(start, steps):
            rng = np.random.default_rng((settings.seed, 1, step))
            torch.manual_seed(settings.seed * 1_000_003 + step)
            requests = composer.batch(rng, BATCH, step * BATCH)
            where = captions.settle(requests, torch.randn(BATCH, 4, 4, 4))
            pictures = data.over(small[where[0], where[1], where[2]], where[3])
            target = (torch.from_numpy(pictures).reshape(BATCH, -1) - mean) @ directions
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * common.schedule(step, steps, floor=0.2)
            seen = head(encoder(tokens(words, [r.caption for r in requests])).last_hidden_state)
            loss = F.mse_loss(seen * weight, target * weight)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            progress.update()
            last = step + 1 == steps
            if last or step % 250 == 249:
                scale = (target * weight).var().item()
                progress.set_postfix(loss=f"{loss.item() / scale:.4f}")
                common.save_checkpoint(
                    path,
                    {
                        "model": model.state_dict(),
                        "encoder": encoder.state_dict(),
                        "embedding": embedding.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "step": step + 1,
                    },
                )
    return path
