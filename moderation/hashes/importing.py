"""Makes the file of a list of known images from what is exchanged: CSV or XML, or a folder of images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from PIL import Image, ImageOps

from contracts.moderation import Category
from moderation.hashes import list_file, multi_index
from moderation.hashes.exact import DIGEST_BYTES, arrays_of
from moderation.hashes.formats import KINDS, PDQ_MIN_QUALITY, BadRow, HashRow, Kind, OtherRow, Row, read
from moderation.hashes.list_file import Array, Header
from moderation.hashes.pdq import Rgb, hash_of
from moderation.hashes.views import views_of

LOW_QUALITY: Final = "pdq_of_low_quality"
"""What PDQ hashes without enough detail are counted as. They are left out."""
MAX_FAULTS: Final = 1_000
"""Bad rows that are remembered. All are counted."""
NAMED_FAULTS: Final = 3
STEP: Final = 50_000
"""Rows between two reports of progress."""
MAX_FILE_BYTES: Final = 256 * 2**20
MAX_PIXELS: Final = 100_000_000
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
"""The files of a folder that are images."""

Progress = Callable[[int], None]
"""Told how many rows or images were read."""


class Embedder(Protocol):
    """Embeds images one at a time. `clip` names its model, as `name@revision`."""

    clip: str

    def embed(self, rgb: Rgb) -> bytes:
        """The vector of an image (height, width, 3), as bytes of float16, of length 1."""
        ...


class BadRows(ValueError):
    """Rows that cannot be used. `faults` holds the first of them, `count` says how many there are."""

    def __init__(self, origin: Path, faults: Sequence[BadRow], count: int) -> None:
        first = "; ".join(f"line {each.line}: {each.reason}" for each in faults[:NAMED_FAULTS])
        more = f"; and {count - NAMED_FAULTS} more" if count > NAMED_FAULTS else ""
        super().__init__(f"{origin} has {count} rows that cannot be used: {first}{more}")
        self.faults = faults
        self.count = count


@dataclass(slots=True)
class Collected:
    """Hashes in the making of a list: by kind, one after the other. `left_out` counts what is not compared."""

    hashes: dict[Kind, bytearray] = field(default_factory=lambda: {kind: bytearray() for kind in KINDS})
    vectors: list[bytes] = field(default_factory=list)
    view_hashes: bytearray = field(default_factory=bytearray)
    """The PDQ hash of each view, beside its vector."""
    clip: str = ""
    left_out: Counter[str] = field(default_factory=Counter)
    faults: list[BadRow] = field(default_factory=list)
    bad: int = 0

    def add(self, row: Row) -> None:
        """Take one row."""
        match row:
            case HashRow(kind="pdq", quality=int(quality)) if quality < PDQ_MIN_QUALITY:
                self.left_out[LOW_QUALITY] += 1
            case HashRow():
                self.hashes[row.kind] += row.value
            case OtherRow():
                self.left_out[row.kind] += 1
            case BadRow():
                self.bad += 1
                if len(self.faults) < MAX_FAULTS:
                    self.faults.append(row)


def import_list(
    source: Path,
    out: Path,
    category: Category,
    *,
    kind: Kind | None = None,
    skip_bad: bool = False,
    embedder: Embedder | None = None,
    progress: Progress = lambda _: None,
) -> tuple[Header, Collected]:
    """Make the list `out` of a CSV or XML file, or of a folder of images.

    `kind`: of rows that do not say theirs. `embedder`: for the images of a folder. Raises `BadRows` and
    writes nothing if a row or an image cannot be used, unless they are skipped by `skip_bad`. Raises `OSError`.
    """
    collected = Collected(clip="" if embedder is None or not source.is_dir() else embedder.clip)
    if source.is_dir():
        for number, path in enumerate(_images_in(source, collected), start=1):
            for row in _rows_of(number, path, source, embedder, collected):
                collected.add(row)
            progress(number)
    else:
        for number, row in enumerate(read(source, kind), start=1):
            collected.add(row)
            if not number % STEP:
                progress(number)
    if collected.bad and not skip_bad:
        raise BadRows(source, collected.faults, collected.bad)
    return _write(out, category, collected), collected


def _images_in(folder: Path, collected: Collected) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            yield path
        elif path.is_file():
            collected.left_out["other_files"] += 1


def _rows_of(
    number: int, path: Path, folder: Path, embedder: Embedder | None, collected: Collected
) -> Iterator[Row]:
    """The hashes of an image. Its views are added to `collected`."""
    name = path.relative_to(folder)
    try:
        rgb, file = rgb_of(path), path.read_bytes()
    except ValueError as error:
        yield BadRow(number, f"{name} is no image that can be read: {error}")
        return
    yield HashRow(number, "sha256", hashlib.sha256(file).digest())
    yield HashRow(number, "md5", hashlib.md5(file, usedforsecurity=False).digest())
    bits, quality = hash_of(rgb)
    yield HashRow(number, "pdq", bits.tobytes(), quality)
    if embedder is not None:
        for view in views_of(rgb):
            collected.vectors.append(embedder.embed(view))
            collected.view_hashes += hash_of(view)[0].tobytes()


def rgb_of(path: Path) -> Rgb:
    """The pixels of an image file, upright: (height, width, 3). Raises `ValueError`, which says what is wrong."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is too large")
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError("it has too many pixels")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def _write(out: Path, category: Category, collected: Collected) -> Header:
    """Write the list of what was collected. Raises `OSError`."""
    arrays: dict[str, Array] = {}
    counts = dict(collected.left_out)
    for kind in DIGEST_BYTES:
        if raw := collected.hashes[kind]:
            arrays |= arrays_of(kind, bytes(raw))
            counts[kind] = len(arrays[f"{kind}.heads"])
    if raw := collected.hashes["pdq"]:
        arrays |= multi_index.build(multi_index.to_words(np.frombuffer(raw, np.uint8)))
        counts["pdq"] = len(arrays["pdq.hashes"])
    if collected.vectors:
        arrays["views.vectors"] = np.stack([np.frombuffer(each, "<f2") for each in collected.vectors])
        arrays["views.hashes"] = multi_index.to_words(np.frombuffer(collected.view_hashes, np.uint8))
        counts["views"] = len(collected.vectors)
    clip = collected.clip if collected.vectors else ""
    return list_file.write(out, Header(category=category, counts=counts, clip=clip), arrays)
