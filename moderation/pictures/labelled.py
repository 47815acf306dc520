"""Labelled pictures in a folder: what is below a folder named after the category shows it, the rest does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from moderation.hashes.importing import SUFFIXES, rgb_of
from moderation.hashes.pdq import Rgb
from moderation.pictures.head import Floats

AT_A_TIME: Final = 64
"""Pictures that are embedded together."""


class BatchEmbedder(Protocol):
    """Embeds images of one size together."""

    def embed_many(self, pictures: Sequence[Rgb]) -> list[bytes]:
        """The vector of each image (height, width, 3), as bytes of float16, of length 1."""
        ...


def embedded(
    folder: Path, category: str, embedder: BatchEmbedder, progress: Callable[[int], None] = lambda _: None
) -> tuple[Floats, NDArray[np.bool_]]:
    """The embeddings (N, D) of all images in the folder, and whether each is of the category.

    Raises `ValueError`, which names the file, for an image that cannot be read.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    raw: list[bytes] = []
    for some in _of_one_size(map(_read, paths)):
        raw += embedder.embed_many(some)
        progress(len(raw))
    labels = np.array([category in path.relative_to(folder).parts[:-1] for path in paths], bool)
    return np.frombuffer(b"".join(raw), "<f2").astype(np.float32).reshape(max(1, len(paths)), -1)[
        : len(paths)
    ], labels


def _read(path: Path) -> Rgb:
    try:
        return rgb_of(path)
    except ValueError as error:
        raise ValueError(f"{path} is no image that can be read: {error}") from error


def _of_one_size(pictures: Iterable[Rgb]) -> Iterator[list[Rgb]]:
    """Lists of pictures that follow each other and have one size."""
    some: list[Rgb] = []
    for picture in pictures:
        if some and (len(some) == AT_A_TIME or picture.shape != some[0].shape):
            yield some
            some = []
        some.append(picture)
    if some:
        yield some
