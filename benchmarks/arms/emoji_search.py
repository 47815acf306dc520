"""Image search over pictures of `emoji-turbo` with `emoji-clip`: the corpus, the queries, and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPModel, CLIPTokenizer

from benchmarks.arms import retrieval
from benchmarks.fidelity import Judge
from models.recipe import captions, data, drawn, queries

EACH: Final = 60
"""Pictures of each thing: some 20,000 of 330."""
TOP: Final = 10
ALTERED: Final = 2000
"""How many pictures are altered and looked for."""
FREE: Final = (
    "a curious {}", "grumpy {}", "an enormous clay {}", "one slightly bent {}", "dear {}", "an elegant {}",
    "do you have {}?", "could you fetch a {}", "let us behold the {}", "my daughter's {}", "a sketch of a {}",
    "a {} beneath a bridge", "a {} made of clay", "{}. It was a surprise.", "a {}, muted tones", "the {} from yesterday",
)  # fmt: skip
"""Phrases whose words have no part in training."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Pictures, uint8 (N, side, side, 3); concept, colour, style and layout asked for, int (N, 4); the judge's concept (N,)."""

    pictures: Any
    attributes: Any
    judged: Any


def prompts(emoji: data.EmojiSet, rng: np.random.Generator, each: int = EACH) -> list[captions.Request]:
    """`each` prompts of every thing, by its name: all colours come round, one style in three is open, layouts are open."""
    made = []
    colours = tuple(data.COLOURS)
    for i, concept in enumerate(emoji.concepts):
        for k in range(each):
            colour = k % len(colours)
            style = (None, 0, 1)[int(rng.integers(3))]
            text = captions.write(
                concept.name, colours[colour], None if style is None else data.STYLES[style]
            )
            made.append(captions.Request(i, colour, style, None, text))
    return made


def corpus(models: Path, emoji: data.EmojiSet, cache: Path, each: int = EACH, seed: int = 7) -> Corpus:
    """Draws and judges the corpus once, and reads it from `cache` afterwards."""
    path = cache / f"search-corpus-{each}.npz"
    made = drawn.load(path)
    if made is None:
        pipe = drawn.open_student(models / "emoji-turbo")
        made = drawn.draw(pipe, prompts(emoji, np.random.default_rng(seed), each), seed)
        drawn.save(path, made)
    labels = path.with_suffix(".judged.npy")
    if not labels.exists():
        judge = Judge(emoji)
        rows = np.array_split(np.arange(len(made.pictures)), max(1, len(made.pictures) // 500))
        ranks = [
            judge.rank(made.pictures[r].astype(np.float32) / 255, made.attributes[r, 1])[:, 0] for r in rows
        ]
        np.save(labels, np.concatenate(ranks))
    return Corpus(made.pictures, made.attributes, np.load(labels))


class Embedder:
    """A CLIP folder: unit vectors of pictures and texts, float32."""

    def __init__(self, folder: Path) -> None:
        self.model = CLIPModel.from_pretrained(folder, local_files_only=True).float().eval()
        self.words = CLIPTokenizer.from_pretrained(folder)
        self.side: int = self.model.config.vision_config.image_size

    @torch.inference_mode()
    def images(self, pictures: Sequence[Any], batch: int = 256) -> Any:
        """Vectors (N, D) of pictures, uint8 (h, w, 3) of one size, scaled to the model's size where they differ."""
        made = []
        for start in range(0, len(pictures), batch):
            levels = torch.from_numpy(np.stack(pictures[start : start + batch]))
            pixels = levels.permute(0, 3, 1, 2).float() / 255
            if pixels.shape[-2:] != (self.side, self.side):
                pixels = F.interpolate(pixels, (self.side, self.side), mode="bicubic", antialias=True).clamp(
                    0, 1
                )
            features = self.model.get_image_features(pixel_values=pixels * 2 - 1).pooler_output
            made.append(F.normalize(features).numpy())
        return np.concatenate(made)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], batch: int = 256) -> Any:
        """Vectors (N, D) of texts."""
        made = []
        for start in range(0, len(texts), batch):
            part = list(texts[start : start + batch])
            ids = self.words(part, padding=True, truncation=True, return_tensors="pt").input_ids
            made.append(F.normalize(self.model.get_text_features(input_ids=ids).pooler_output).numpy())
        return np.concatenate(made)


def asked(emoji: data.EmojiSet) -> dict[str, list[queries.Query]]:
    """The queries of each figure, with the attributes that a right picture has."""
    groups: dict[str, list[queries.Query]] = {
        name: []
        for name in ("concept", "bare", "synonym", "synonym_kept_out", "colour", "heldout", "style", "free")
    }
    rng = np.random.default_rng(11)
    for i, concept in enumerate(emoji.concepts):
        groups["concept"].append(queries.Query(captions.write(concept.name), i))
        groups["bare"].append(queries.Query(concept.name, i))
        trained, kept = queries.split_synonyms(concept)
        groups["synonym"] += [queries.Query(captions.write(word), i) for word in trained]
        groups["synonym_kept_out"] += [queries.Query(captions.write(word), i) for word in kept]
        out = [data.held_out(concept.name, colour) for colour in data.COLOURS]
        for c, colour in enumerate(data.COLOURS):
            query = queries.Query(captions.write(concept.name, colour), i, c)
            groups["heldout" if out[c] else "colour"].append(query)
        for s, style in enumerate(data.STYLES):
            groups["style"].append(queries.Query(captions.write(concept.name, style=style), i, style=s))
        phrase = FREE[int(rng.integers(len(FREE)))]
        groups["free"].append(queries.Query(phrase.format(concept.name), i))
    return groups


def figures(
    embedder: Embedder, emoji: data.EmojiSet, pictures: Corpus, altered: int = ALTERED
) -> dict[str, float]:
    """`<group>_p10` of every group of queries, and `self_recall_1` of every way to alter a picture."""
    vectors = embedder.images(pictures.pictures)
    shown = pictures.attributes.copy()
    shown[:, 0] = pictures.judged
    made = {}
    for name, group in asked(emoji).items():
        if group:
            found = retrieval.nearest(embedder.texts([query.text for query in group]), vectors, TOP)
            made[f"{name}_p10"] = float(retrieval.precision(found, queries.fits(group, shown)).mean())
    rows = np.sort(np.random.default_rng(13).permutation(len(vectors))[:altered])
    for name, way in retrieval.WAYS.items():
        looked_for = embedder.images([way(pictures.pictures[row]) for row in rows])
        first = retrieval.nearest(looked_for, vectors, 1)[:, 0]
        right = retrieval.finds_itself(first, rows, pictures.pictures)
        made["self_recall_1" if name == "all" else f"self_recall_1_{name}"] = float(right.mean())
    return made
