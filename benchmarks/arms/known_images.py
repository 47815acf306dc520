"""Known images after what people do to them, and how often others are taken for them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from contracts.ports.picture_judge import PictureToJudge
from models.recipe import captions, data, drawn
from models.recipe.concepts import concept_table
from moderation.hashes.formats import PDQ_MIN_QUALITY
from moderation.hashes.importing import import_list
from moderation.hashes.known import KnownImages, PictureHashes
from moderation.hashes.pdq import hash_of
from moderation.policy import HashList
from worker.engine import clip_source, embedding
from worker.engine.device import pick

Rgb = NDArray[np.uint8]
MODELS: Final = Path(__file__).parents[2] / "models"
BATCH: Final = 64


def _jpeg(rgb: Rgb) -> Rgb:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file).convert("RGB"))


def _half(rgb: Rgb) -> Rgb:
    image = Image.fromarray(rgb)
    return np.asarray(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS))


def _cropped(share: float, rgb: Rgb) -> Rgb:
    """Without this share of its width and of its height: half of it at each edge."""
    y, x = round(rgb.shape[0] * share / 2), round(rgb.shape[1] * share / 2)
    return np.ascontiguousarray(rgb[y:-y, x:-x])


def _brighter(share: float, rgb: Rgb) -> Rgb:
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(rgb)).enhance(1 + share))


CHANGES: Final[Mapping[str, Callable[[Rgb], Rgb]]] = {
    "jpeg_50": _jpeg,
    "half_size": _half,
    "mirror": lambda rgb: np.ascontiguousarray(rgb[:, ::-1]),
    "crop_10": partial(_cropped, 0.1),
    "crop_7": partial(_cropped, 0.07),
    "brighter_20": partial(_brighter, 0.2),
    "brighter_10": partial(_brighter, 0.1),
}


class Clip:
    """The workers' CLIP, in this process."""

    def __init__(self, setting: str = str(MODELS / "emoji-clip")) -> None:
        self._embedder = embedding.load(clip_source.read(setting), pick("cpu"))
        self.clip = self._embedder.identity

    def embed(self, rgb: Rgb) -> bytes:
        """The vector of one image, as `moderation.hashes.importing.Embedder` answers it."""
        return bytes(self.vectors([rgb])[0].astype("<f2").tobytes())

    def vectors(self, pictures: Sequence[Rgb]) -> NDArray[np.float32]:
        """The vectors (N, D) of images of one size."""
        made = []
        with torch.inference_mode():
            for at in range(0, len(pictures), BATCH):
                levels = torch.from_numpy(np.stack(pictures[at : at + BATCH])).permute(0, 3, 1, 2).float()
                made.append(self._embedder.embed(levels).float().numpy())
        return np.concatenate(made)


def draw(seed: int, *, things: Sequence[str] | None = None) -> tuple[list[str], list[Rgb]]:
    """One picture of each thing, on a colour that the seed picks."""
    random = np.random.default_rng(seed)
    names = list(things or dict.fromkeys(name for _, name in concept_table()))
    colours = list(data.COLOURS)
    asked = [
        captions.Request(0, 0, 0, 0, captions.write(name, colours[random.integers(len(colours))]))
        for name in names
    ]
    pictures = drawn.draw(drawn.open_student(MODELS / "emoji-turbo"), asked, seed).pictures
    return names, list(pictures)


def _picture(rgb: Rgb, clip: Clip) -> PictureToJudge:
    return PictureToJudge(
        rgb.tobytes(), rgb.shape[1], rgb.shape[0], rgb.tobytes()[:64], "t", clip.embed(rgb), clip.clip
    )


def _list_of(name: str, rgb: Rgb, clip: Clip, similarity: float, folder: Path) -> KnownImages:
    """A list of one picture."""
    source = folder / name.replace(" ", "-")
    source.mkdir()
    Image.fromarray(rgb).save(source / "a.png")
    import_list(source, folder / f"{source.name}.pdq", "weapons", embedder=clip)
    entry = HashList(file=folder / f"{source.name}.pdq", category="weapons", similarity=similarity)
    return KnownImages(entry, clip.clip)


def measure(
    clip: Clip, seed: int, similarity: float, sets: int, folder: Path
) -> tuple[dict[str, float], Any]:
    """Recall after each change, and false matches among pairs of pictures of different things.

    The list has one picture of each thing, and is made as `darkroom moderation import` makes it. Each picture is
    changed and looked up in a list of itself. `sets` other pictures of each thing are looked up in the lists of
    the other things.
    """
    names, listed = draw(seed)
    lists = [_list_of(name, rgb, clip, similarity, folder) for name, rgb in zip(names, listed, strict=True)]
    low = np.array([hash_of(each)[1] < PDQ_MIN_QUALITY for each in listed])
    figures = {"known_pictures": float(len(listed)), "known_low_quality_share": float(low.mean())}
    recalls = {}
    for name, change in CHANGES.items():
        found = []
        for known, rgb in zip(lists, listed, strict=True):
            by = [each.source for each in known.look(PictureHashes(_picture(change(rgb), clip)))]
            found.append((any(" by pdq" in each for each in by), any(" by embedding" in each for each in by)))
        share = np.array(found)
        figures[f"known_{name}"] = float(share.any(1).mean())
        figures[f"known_{name}_pdq"] = float(share[~low, 0].mean())
        figures[f"known_{name}_embedding"] = float(share[:, 1].mean())
        recalls[name] = [figures[f"known_{name}_{way}"] for way in ("pdq", "embedding")]
        recalls[name].append(figures[f"known_{name}"])
    pairs = false = 0
    for number in range(1, sets + 1):
        for row, rgb in enumerate(draw(seed + number, things=names)[1]):
            hashes = PictureHashes(_picture(rgb, clip))
            for at, known in enumerate(lists):
                if at != row:
                    pairs += 1
                    false += any(True for _ in known.look(hashes))
    return figures | {"known_pairs": float(pairs), "known_false_matches": float(false)}, recalls
