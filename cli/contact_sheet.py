"""A contact sheet: images in a grid, each with its text below. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont

CELL: Final = 192
"""Pixels of the longer side of each image."""
GAP: Final = 12
LINE: Final = 16
LINES: Final = 2
"""Lines of text below an image."""
FONT: Final = 12
PAPER: Final = (255, 255, 255)
INK: Final = (40, 40, 40)
MISSING: Final = (225, 225, 225)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(pictures: Sequence[tuple[Image.Image | None, str]]) -> Image.Image:
    """Returns the images in reading order, in a grid that is about square. None stands for a missing image.

    Raises `ValueError` without images.
    """
    if not pictures:
        raise ValueError("a contact sheet needs an image")
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = CELL + GAP, CELL + LINES * LINE + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for number, (picture, text) in enumerate(pictures):
        row, column = divmod(number, columns)
        left, top = GAP + column * width, GAP + row * height
        if picture is None:
            draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), fill=MISSING)
        else:
            _paste(sheet, picture, left, top)
        for index, line in enumerate(wrapped(text, font)):
            draw.text((left, top + CELL + 2 + index * LINE), line, INK, font)
    return sheet


def wrapped(text: str, font: Font) -> list[str]:
    """Returns the text in at most `LINES` lines that fit below an image. An ellipsis stands for the rest."""
    words, lines = text.split(), list[str]()
    while words and len(lines) < LINES:
        line = words.pop(0)
        while words and font.getlength(f"{line} {words[0]}") <= CELL:
            line = f"{line} {words.pop(0)}"
        lines.append(line)
    if words:
        lines[-1] += "…"
    return [_cut(line, font) for line in lines]


def _cut(line: str, font: Font) -> str:
    if font.getlength(line) <= CELL:
        return line
    low, high = 0, len(line)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(line[:middle] + "…") <= CELL:
            low = middle
        else:
            high = middle - 1
    return line[:low] + "…"


def _paste(sheet: Image.Image, picture: Image.Image, left: int, top: int) -> None:
    scale = CELL / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    sheet.paste(small, (left + (CELL - size[0]) // 2, top + (CELL - size[1]) // 2))
