"""The shape of the small CLIP, and its loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from models.recipe import common, data, views

INSTANCE_WEIGHT = 0.5
LARGEST_SCALE = 4.0
LENGTH = 48
PATCH_PX = 8
PATCHES = (data.SIDE_PX // PATCH_PX) ** 2
WIDTH = 160
TEXT_WIDTH = 160
PROJECTION = 128
MEAN = STD = 0.5


def build(words: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP for the tokenizer's words."""
    return CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": len(words),
                "hidden_size": TEXT_WIDTH,
                "intermediate_size": 4 * TEXT_WIDTH,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "max_position_embeddings": LENGTH,
                "bos_token_id": words.bos_token_id,
                "eos_token_id": words.eos_token_id,
                "pad_token_id": words.pad_token_id,
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


def begin(model: CLIPModel, folder: Path) -> bool:
    """Takes the vision part of a CLIP folder as a head start, where there is one of this shape. Returns whether it did."""
    if not (folder / "model.safetensors").exists():
        return False
    former = CLIPModel.from_pretrained(folder, local_files_only=True).vision_model.state_dict()
    own = model.vision_model.state_dict()
    if {name: value.shape for name, value in former.items()} != {n: v.shape for n, v in own.items()}:
        return False
    model.vision_model.load_state_dict({name: value.float() for name, value in former.items()})
    return True


def vision_flop(config: Any) -> int:
    """Floating-point operations of embedding one image: two for each multiply-add of the matrix products."""
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens, width = patches + 1, vision.hidden_size
    layer = tokens * (4 * width * width + 2 * width * vision.intermediate_size) + 2 * tokens * tokens * width
    stem = patches * width * vision.num_channels * vision.patch_size**2
    return 2 * (stem + vision.num_hidden_layers * layer + width * config.projection_dim)


def ranked(logits: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """How far each positive of a row ranks above all negatives of the row: the mean loss, a scalar.

    `logits`, `positive` and `negative` are (R, C). Positives do not compete. Rows without a positive do not count.
    """
    against = logits.masked_fill(~negative, float("-inf")).logsumexp(1, keepdim=True)
    losses = F.softplus(against - logits) * positive
    count = positive.sum(1)
    return (losses.sum(1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def ids_of(words: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids (B, T), padded to the longest text and cut at `LENGTH`."""
    ids: torch.Tensor = words(
        texts, padding=True, max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def embed_texts(model: CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """Unit vectors (B, D) of texts."""
    return F.normalize(model.get_text_features(input_ids=ids).pooler_output.float())


def embed_images(model: CLIPModel, pictures: torch.Tensor, patches: int | None = None) -> torch.Tensor:
    """Unit vectors (B, D) of pictures (B, 3, side, side) in [0, 1], from all patches or from as many, at random."""
    vision = model.vision_model
    seen = vision.embeddings((pictures - MEAN) / STD)
    if patches is not None:
        chosen = torch.rand(len(seen), seen.shape[1] - 1).argsort(1)[:, :patches] + 1
        rest = seen.gather(1, chosen[..., None].expand(-1, -1, seen.shape[2]))
        seen = torch.cat([seen[:, :1], rest], 1)
    seen = vision.encoder(inputs_embeds=vision.pre_layrnorm(seen)).last_hidden_state
    return F.normalize(model.visual_projection(vision.post_layernorm(seen[:, 0])).float())


class Trained(nn.Module):
    """The CLIP, and the temperature of pictures against pictures, which training alone needs."""

    def __init__(self, words: CLIPTokenizer) -> None:
        super().__init__()
        self.clip = build(words)
        # The fused attention is half as fast as plain products at these sizes, backwards above all.
        self.clip.set_attn_implementation("eager")
        self.pair_scale = nn.Parameter(torch.tensor(2.5))

    def forward(
        self,
        pictures: torch.Tensor,
        identity: torch.Tensor,
        ids: torch.Tensor,
        fit: torch.Tensor,
        patches: int | None,
    ) -> torch.Tensor:
        """The loss of pictures (B, 3, side, side) in [0, 1] and queries' ids (Q, T), a scalar.

        `identity` (B,) tells pictures apart. `fit` (Q, B) says which picture fits which query.
        """
        shown = torch.cat([views.light(pictures), views.strong(pictures)])
        with common.fast():
            images = embed_images(self.clip, shown, patches)
            texts = embed_texts(self.clip, ids)
        logits = texts @ images.T * self.clip.logit_scale.clamp(max=LARGEST_SCALE).exp()
        fit = fit.repeat(1, 2)
        by_words = ranked(logits, fit, ~fit) + ranked(logits.T, fit.T, ~fit.T)
        who = identity.repeat(2)
        same = who[:, None] == who[None]
        pairs = images @ images.T * self.pair_scale.clamp(max=LARGEST_SCALE).exp()
        by_picture = ranked(pairs, same & ~torch.eye(len(who), dtype=torch.bool), ~same)
        return by_words + INSTANCE_WEIGHT * by_picture
