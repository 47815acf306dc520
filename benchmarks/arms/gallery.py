"""A platform whose index already holds pictures: their vectors, their records and their files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from backends.blobs import DirectoryBlobStore
from benchmarks.arms import emoji_search
from contracts.pictures import Embedding, PictureRecord
from contracts.search_settings import SearchSettings
from contracts.tenancy import ANONYMOUS_TENANT
from models.recipe import data
from runtime.clock import SystemClock
from search.clip import ClipModel
from search.engines import index_of
from worker.engine import clip_source, embedding
from worker.engine.device import Device

MODEL: Final = "emoji-turbo"
BATCH: Final = 128
LIFE_S: Final = 7 * 86_400.0
SEED: Final = 7
"""The seed of the pictures, and of their prompts."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures, uint8 (N, side, side, 3), the judge's concept of each (N,), and their prompts."""

    emoji: data.EmojiSet
    pictures: Any
    judged: Any
    prompts: list[str]


class Embedders:
    """The two parts of one CLIP as the platform uses them: pictures as a worker embeds them, texts as the search does."""

    def __init__(self, setting: str) -> None:
        self.setting = setting
        self._text = ClipModel(setting)
        self._image = embedding.load(clip_source.read(setting), Device("cpu"))
        self.name, self.dimensions = self._text.name, self._text.dimensions

    def images(self, pictures: Sequence[Any]) -> Any:
        """Vectors, float16 (N, D), of pictures, uint8 (h, w, 3) of one size."""
        made = []
        with torch.inference_mode():
            for at in range(0, len(pictures), BATCH):
                levels = torch.from_numpy(np.stack(pictures[at : at + BATCH])).permute(0, 3, 1, 2).float()
                made.append(self._image.embed(levels).numpy())
        return np.concatenate(made)

    def texts(self, texts: Sequence[str]) -> Any:
        """Vectors, float16 (N, D), of texts."""
        return np.concatenate(
            [self._text.texts(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)]
        )


def opened(models: Path, cache: Path, each: int) -> Gallery:
    """`each` pictures of every thing: drawn and judged once, and read from `cache` afterwards."""
    emoji = data.load(cache)
    corpus = emoji_search.corpus(models, emoji, cache, each, SEED)
    asked = emoji_search.prompts(emoji, np.random.default_rng(SEED), each)
    return Gallery(emoji, corpus.pictures, corpus.judged, [request.caption for request in asked])


def png(picture: Any) -> bytes:
    """The file of a picture."""
    with io.BytesIO() as file:
        Image.fromarray(picture).save(file, "PNG", compress_level=1)
        return file.getvalue()


async def fill(gallery: Gallery, vectors: Any, clip: str, setting: str, blobs: Path) -> list[str]:
    """Puts all pictures into the index of `setting`, and their files into `blobs`. Returns their names, in order."""
    store, now = DirectoryBlobStore(blobs, SystemClock()), SystemClock().now()
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(lambda picture: store.write(png(picture), "png"), gallery.pictures))
    height, width = gallery.pictures.shape[1:3]
    records = [
        PictureRecord(
            scope=ANONYMOUS_TENANT,
            name=name,
            embedding=Embedding.of(clip, vectors[row].astype("<f2").tobytes()),
            created_at=now - len(names) + row,
            expires_at=now + LIFE_S,
            prompt=gallery.prompts[row],
            model=MODEL,
            width=width,
            height=height,
            seed=row,
        )
        for row, name in enumerate(names)
    ]
    index = index_of(SearchSettings(search_index=setting))
    await index.open(clip, vectors.shape[1])
    refused = [
        refusal
        for at in range(0, len(records), 2_000)
        for refusal in await index.put(records[at : at + 2_000])
    ]
    await index.close()
    if refused:
        raise RuntimeError(f"The index refuses {len(refused)} pictures: {refused[0].reason}")
    return names
