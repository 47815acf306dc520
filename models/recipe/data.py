"""Fetches the emoji sets at pinned versions, renders them, and composes pictures.

A picture is one emoji on a flat background in one of four layouts. Sprites are kept as
premultiplied RGBA so that a composition is two multiplications.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.recipe.concepts import concept_table

Array = npt.NDArray[Any]

SIDE_PX = 64
SPRITE_PX = 192
STYLES = ("noto", "flat")
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "black": (36, 36, 40),
    "grey": (150, 150, 152),
    "red": (222, 66, 70),
    "orange": (246, 146, 60),
    "yellow": (250, 214, 84),
    "green": (80, 178, 100),
    "blue": (70, 132, 236),
    "purple": (142, 92, 200),
    "pink": (246, 160, 198),
}


@dataclass(frozen=True, slots=True)
class Package:
    """One npm package at a pinned version, with the integrity string of its registry entry."""

    name: str
    version: str
    integrity: str
    licence: str


PACKAGES = (
    Package(
        "@iconify-json/noto",
        "1.2.9",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
    ),
    Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT",
    ),
    Package(
        "emojibase-data",
        "17.0.0",
        "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
        "MIT",
    ),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the emoji stands: its box and horizontal shift, as shares of the picture's side."""

    name: str
    box: float
    shift: float
    share: float


LAYOUTS = (
    Layout("large", 54 / 64, 0.0, 0.70),
    Layout("small", 38 / 64, 0.0, 0.10),
    Layout("left", 44 / 64, -10 / 64, 0.10),
    Layout("right", 44 / 64, 10 / 64, 0.10),
)


@dataclass(frozen=True, slots=True)
class Concept:
    """One thing the model can paint; `synonyms` are unambiguous over all concepts."""

    name: str
    code: str
    synonyms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EmojiSet:
    """Concepts and their sprites, uint8 (concepts, styles, SPRITE_PX, SPRITE_PX, 4)."""

    concepts: tuple[Concept, ...]
    sprites: Array


_NO_NAMES_TEXT = """
small large left right noto flat style background picture american gay lesbian genderqueer glbt glbtq lmao
litaf fml yolo doo mad men dad man hand family new cancer bet hit shot drugs order iron easy over under done
late personal negative positive back date adorbs curious sly alpha big predator spiny down lazy slow jump
baby young ugly wise flamboyant ostentatious proud talk elegant outdoors growth falling grow nurturing sour
wild convoluted twisted indecisive happy delicious feed classical country settle simple european mexican
irish speed steam drive driving turn alert drove extra packing sailing waiting bright medium danger lit sad
sweat awesome surprise strike super soar direct eight future dance expendable creative artsy arty framed
dark crochet knit employed serious denim bathing running athletic formal bent medieval royal engaged married
shiny sparkling stone cheering break trip metal silver bamboo cutting charge cost locked private major split
crossed dangerous handy shape contact medicated front fresh air transparent opening sleep sit clean cleaning
sweeping dead haunting scary silly pixelated intelligent smart kissing plush stuffed interlocking nesting
climb theme amusement passenger resort side health ripe diet spouting frying hatching skating fishing
cycling camping million billion pile piece bowl military crystal terrestrial quench potted fashion living
great beautiful cute funny evil office class high-speed knights bearer growl ringed step idea boo boom
suburban suburbia yum ride smh where gang paid paying view smelly revolving wrapped lunch toy water painter
yummy spin stink
"""
NO_NAMES = frozenset(_NO_NAMES_TEXT.split())
"""Tags that name no thing: words of layout, and of mood, look, material, size, count and doing.

A tag that belongs to one thing alone asks for it, and so `a sad robot` would be a drop.
"""


class FetchError(RuntimeError):
    """A package could not be fetched, or is not the pinned one."""


def fetch(package: Package, cache: Path) -> Path:
    """Returns the package's tarball in the cache, through the user's own npm configuration."""
    folder = cache / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    spec = f"{package.name}@{package.version}"
    tarball = folder / f"{package.name.strip('@').replace('/', '-')}-{package.version}.tgz"
    if not tarball.exists():
        if shutil.which("npm") is None:
            raise FetchError("The emoji sets come from the npm registry: install Node.js with its npm.")
        done = subprocess.run(["npm", "pack", spec, "--silent"], cwd=folder, capture_output=True, text=True)
        if done.returncode or not tarball.exists():
            raise FetchError(f"npm pack {spec}: {done.stderr.strip() or 'no tarball'}")
    digest = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != package.integrity:
        tarball.unlink()
        raise FetchError(f"{spec}: checksum differs from the pinned one")
    return tarball


def _read_json(tarball: Path, member: str) -> Any:
    with tarfile.open(tarball) as archive:
        handle = archive.extractfile(f"package/{member}")
        if handle is None:
            raise FetchError(f"{tarball.name} has no {member}")
        return json.load(handle)


def _key(hexcode: str) -> str:
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def choose_concepts(emojis: list[dict[str, Any]]) -> tuple[Concept, ...]:
    """Picks the table's concepts and keeps the tags that name exactly one of them."""
    by_label = {emoji["label"]: emoji for emoji in emojis}
    rows = [(name, by_label[label]) for label, name in concept_table() if label in by_label]
    names = {name for name, _ in rows}
    owners: dict[str, set[str]] = {}
    for name, emoji in rows:
        words = {emoji["label"].lower(), *(tag.lower() for tag in emoji.get("tags", ()))}
        for word in words - {"face", "color", "fruit", "food", "animal", "nature"}:
            owners.setdefault(word, set()).add(name)
    for name in names:
        for part in name.split():
            owners.setdefault(part, set()).add(name)
    table = []
    for name, emoji in rows:
        tags = [emoji["label"].lower(), *(tag.lower() for tag in emoji.get("tags", ()))]
        unique = dict.fromkeys(
            word
            for word in tags
            if owners.get(word) == {name}
            and word not in names
            and word not in COLOURS
            and word not in NO_NAMES
            and 3 <= len(word) <= 18
            and word.replace(" ", "").replace("-", "").isascii()
        )
        table.append(Concept(name, _key(emoji["hexcode"]), tuple(unique)[:4]))
    return tuple(table)


def _render(icons: dict[str, Any], name: str) -> Array:
    import resvg_py

    icon = icons["icons"][name]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{SPRITE_PX}" height="{SPRITE_PX}">'
        f"{icon['body']}</svg>"
    )
    data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE_PX, height=SPRITE_PX))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def fit(sprite: Array) -> Array:
    """Crops an RGBA sprite to what is drawn and fits it into the full square, premultiplied."""
    visible = np.argwhere(sprite[..., 3] > 8)
    (top, left), (bottom, right) = visible.min(0), visible.max(0) + 1
    crop = sprite[top:bottom, left:right].astype(np.float32) / 255
    crop[..., :3] *= crop[..., 3:]
    high, wide = crop.shape[:2]
    scale = SPRITE_PX / max(high, wide)
    size = (max(1, round(wide * scale)), max(1, round(high * scale)))
    planes = [
        np.asarray(Image.fromarray(crop[..., c]).resize(size, Image.Resampling.LANCZOS)) for c in range(4)
    ]
    out = np.zeros((SPRITE_PX, SPRITE_PX, 4), np.float32)
    y, x = (SPRITE_PX - size[1]) // 2, (SPRITE_PX - size[0]) // 2
    out[y : y + size[1], x : x + size[0]] = np.stack(planes, -1).clip(0, 1)
    return (out * 255).round().astype(np.uint8)


def load(cache: Path) -> EmojiSet:
    """Fetches, renders and caches the emoji; the second call only reads the cache."""
    saved, table = cache / "sprites.npz", cache / "concepts.json"
    if saved.exists() and table.exists():
        rows = json.loads(table.read_text())
        concepts = tuple(Concept(r["name"], r["code"], tuple(r["synonyms"])) for r in rows)
        return EmojiSet(concepts, np.load(saved)["sprites"])
    noto, flat, names = (fetch(package, cache) for package in PACKAGES)
    sets = [(_read_json(p, "icons.json"), _read_json(p, "chars.json")) for p in (noto, flat)]
    chosen = [
        concept
        for concept in choose_concepts(_read_json(names, "package.json") and _emojis(names))
        if all(concept.code in chars for _, chars in sets)
    ]
    sprites = np.stack(
        [np.stack([fit(_render(icons, chars[c.code])) for icons, chars in sets]) for c in chosen]
    )
    np.savez_compressed(saved, sprites=sprites)
    table.write_text(
        json.dumps([{"name": c.name, "code": c.code, "synonyms": c.synonyms} for c in chosen], indent=1)
    )
    return EmojiSet(tuple(chosen), sprites)


def _emojis(tarball: Path) -> list[dict[str, Any]]:
    emojis: list[dict[str, Any]] = _read_json(tarball, "en/data.json")
    return emojis


def place(sprite: Array, layout: Layout, side: int = SIDE_PX) -> Array:
    """Draws one sprite on a transparent canvas: premultiplied float32 (side, side, 4)."""
    box = round(layout.box * side)
    planes = [
        np.asarray(
            Image.fromarray(sprite[..., c].astype(np.float32) / 255).resize(
                (box, box), Image.Resampling.BOX if box * 2 < SPRITE_PX else Image.Resampling.BILINEAR
            )
        )
        for c in range(4)
    ]
    canvas = np.zeros((side, side, 4), np.float32)
    y = (side - box) // 2
    x = min(max(y + round(layout.shift * side), 0), side - box)
    canvas[y : y + box, x : x + box] = np.stack(planes, -1)
    return canvas


def canvases(emoji: EmojiSet, side: int = SIDE_PX) -> Array:
    """All drawings, float16 (concepts, styles, layouts, side, side, 4), premultiplied."""
    out = np.empty((*emoji.sprites.shape[:2], len(LAYOUTS), side, side, 4), np.float16)
    for i, styles in enumerate(emoji.sprites):
        for j, sprite in enumerate(styles):
            for k, layout in enumerate(LAYOUTS):
                out[i, j, k] = place(sprite, layout, side)
    return out


def over(canvas: Array, colour: int | Array) -> Array:
    """Composes drawings (..., side, side, 4) over flat colours: float32 in [0, 1]."""
    table = np.asarray(list(COLOURS.values()), np.float32) / 255
    flat = table[colour]
    drawn = canvas.astype(np.float32)
    return drawn[..., :3] + (1 - drawn[..., 3:]) * flat[..., None, None, :]


def held_out(concept: str, colour: str) -> bool:
    """Whether this combination is never trained: about one in twelve, by a stable hash."""
    return hashlib.sha256(f"{concept}|{colour}".encode()).digest()[0] % 12 == 0
