"""`python -m models.recipe.weapons FOLDER`: pictures to train the picture head of `weapons` on.

The student draws the weapons that it knows into `FOLDER/weapons`, and everything else, patterns too, into
`FOLDER/other`. A third of the pictures are damaged as `views.py` does, and each is put on a background of
any colour as well. Two colours, one layout and a few words are left out of the prompts:
`benchmarks/moderation_pictures.py` measures with them.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from models.recipe import captions, common, data, drawn, views
from models.recipe.concepts import concept_table

WEAPONS: Final = ("swords", "bomb", "bow and arrow")
"""The weapons among the things that the student knows. Tools (axe, kitchen knife, hammer) are none."""
LOOK_ALIKE: Final = (
    "kitchen knife",
    "axe",
    "hammer",
    "carpentry saw",
    "saw",
    "scissors",
    "wrench",
    "screwdriver",
    "shield",
    "balance scale",
    "fork and knife",
    "anchor",
    "8 ball",
    "pool 8 ball",
    "bowling",
    "fire",
    "firecracker",
    "magic wand",
    "bullseye",
    "syringe",
    "yarn",
    "pill",
)
"""Things that share a shape with a weapon. They are drawn more often."""
HELD_OUT_COLOURS: Final = ("orange", "purple")
HELD_OUT_LAYOUTS: Final = ("left",)
WORDS: Final = ("", "", "", "shiny ", "old ", "two ", "tiny ", "golden ", "cartoon ", "broken ")
HELD_OUT_WORDS: Final = ("rusty ", "three ", "wooden ", "beautiful ")
DAMAGED: Final = 3
"""One picture in so many is damaged."""
BACKGROUND_LEVELS: Final = 64
"""A pixel that differs so much from the background has nothing of it."""
WEAPON_TIMES: Final = 600
ALIKE_TIMES: Final = 40
OTHER_TIMES: Final = 22
PATTERNS: Final = 500
SMALL_SIDES: Final = (2, 4, 8, 16)


def requests(seed: int, *, held_out: bool = False, share: float = 1.0) -> list[tuple[str, captions.Request]]:
    """Pairs of a thing and a request. `held_out`: with colours, layouts and words of no training.

    `share` is the share of the usual number.
    """
    random = np.random.default_rng(seed)
    colours = [each for each in data.COLOURS if (each in HELD_OUT_COLOURS) == held_out]
    layouts = HELD_OUT_LAYOUTS if held_out else ("", "", "", "small", "large", "right")
    words = HELD_OUT_WORDS if held_out else WORDS
    made = []
    for thing in dict.fromkeys(name for _, name in concept_table()):
        times = WEAPON_TIMES if thing in WEAPONS else ALIKE_TIMES if thing in LOOK_ALIKE else OTHER_TIMES
        for _ in range(max(1, round(times * share))):
            caption = captions.write(
                words[random.integers(len(words))] + thing,
                None if random.random() < 0.2 and not held_out else colours[random.integers(len(colours))],
                (None, *data.STYLES)[random.integers(3)],
                layouts[random.integers(len(layouts))] or None,
            )
            made.append((thing, captions.Request(0, 0, 0, 0, caption)))
    return [made[at] for at in random.permutation(len(made))]


def draw(student: Path, asked: list[tuple[str, captions.Request]], seed: int) -> Any:
    """The pictures, uint8 (N, side, side, 3)."""
    pipe = drawn.open_student(student)
    return drawn.draw(pipe, [request for _, request in asked], seed).pictures


def damaged(pictures: Any, seed: int) -> Any:
    """The pictures (N, side, side, 3), each with a damage of its own."""
    torch.manual_seed(seed)
    levels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    out = views.strong(levels).mul(255).round().clamp(0, 255).to(torch.uint8)
    return out.permute(0, 2, 3, 1).numpy()


def recoloured(pictures: Any, seed: int) -> Any:
    """The pictures (N, side, side, 3), each on a flat background of any colour instead of its own.

    The student knows ten colours. A head that has seen those alone takes a strange one for a strange thing.
    """
    random = np.random.default_rng(seed)
    levels = pictures.astype(np.float32)
    patches = [
        levels[:, y, x] for y in (slice(0, 4), slice(-4, None)) for x in (slice(0, 4), slice(-4, None))
    ]
    own = np.median(np.concatenate([each.reshape(len(levels), -1, 3) for each in patches], 1), 1)
    wanted = random.integers(0, 256, own.shape)
    apart = np.abs(levels - own[:, None, None]).max(3, keepdims=True)
    share = np.clip(1 - apart / BACKGROUND_LEVELS, 0, 1)
    return (levels + share * (wanted - own)[:, None, None]).clip(0, 255).round().astype(np.uint8)


def patterns(seed: int, count: int = PATTERNS) -> Any:
    """Pictures of nothing: blots of colour of all sizes, (count, side, side, 3)."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        cells = SMALL_SIDES[random.integers(len(SMALL_SIDES))]
        small = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        made.append(np.asarray(small.resize((data.SIDE_PX, data.SIDE_PX), Image.Resampling.BICUBIC)))
    return np.stack(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--student", type=Path, default=Path(__file__).parents[1] / "emoji-turbo")
    parser.add_argument("--seed", type=int, default=24)
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of pictures")
    given = parser.parse_args()
    torch.set_num_threads(1)
    asked = requests(given.seed, share=given.share)
    pictures = draw(given.student, asked, given.seed)
    things = [thing for thing, _ in asked]
    parts = [
        *zip(things, pictures, strict=True),
        *zip(things[::DAMAGED], damaged(pictures[::DAMAGED], given.seed), strict=True),
        *zip(things, recoloured(pictures, given.seed), strict=True),
        *(("pattern", picture) for picture in patterns(given.seed)),
    ]
    for name in ("weapons", "other"):
        (given.folder / name).mkdir(parents=True, exist_ok=True)
    for thing, picture in common.progress(parts, "written"):
        folder = given.folder / ("weapons" if thing in WEAPONS else "other")
        name = f"{thing.replace(' ', '-')}-{zlib.crc32(picture.tobytes()):08x}.png"
        Image.fromarray(picture).save(folder / name)


if __name__ == "__main__":
    main()
