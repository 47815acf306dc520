"""Labelled pictures in a folder: what is below a folder named after the category shows it, the rest does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moderation.hashes.importing import SUFFIXES, Embedder, rgb_of
from moderation.pictures.head import Floats


def embedded(
    folder: Path, category: str, embedder: Embedder, progress: Callable[[int], None] = lambda _: None
) -> tuple[Floats, NDArray[np.bool_]]:
    """The embeddings (N, D) of all images in the folder, and whether each is of the category.

    Raises `ValueError`, which names the file, for an image that cannot be read.
    """
    vectors, labels = [], []
    for number, path in enumerate(sorted(folder.rglob("*")), start=1):
        if path.suffix.lower() not in SUFFIXES:
            continue
        try:
            rgb = rgb_of(path)
        except ValueError as error:
            raise ValueError(f"{path} is no image that can be read: {error}") from error
        vectors.append(np.frombuffer(embedder.embed(rgb), "<f2").astype(np.float32))
        labels.append(category in path.relative_to(folder).parts[:-1])
        progress(number)
    shape = (len(vectors), len(vectors[0]) if vectors else 0)
    return np.array(vectors, np.float32).reshape(shape), np.array(labels, bool)
