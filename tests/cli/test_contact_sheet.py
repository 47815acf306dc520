"""The grid of a contact sheet, and the text below its images."""

from __future__ import annotations

import pytest
from PIL import Image, ImageFont

from cli.contact_sheet import CELL, GAP, INK, LINE, LINES, MISSING, PAPER, contact_sheet, wrapped

RED, BLUE = (200, 0, 0), (0, 0, 200)
STEP = CELL + LINES * LINE + GAP


def colours(sheet: Image.Image, box: tuple[int, int, int, int]) -> set[object]:
    return {colour for _, colour in sheet.crop(box).getcolors(1 << 24) or []}


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (5, 3, 2), (10, 4, 3)]
)
def test_the_grid_is_about_square(count: int, columns: int, rows: int) -> None:
    sheet = contact_sheet([(None, "a")] * count)
    assert sheet.size == (columns * (CELL + GAP) + GAP, rows * STEP + GAP)


def test_each_image_stands_in_its_place_over_its_text() -> None:
    wide, high = Image.new("RGB", (64, 32), RED), Image.new("L", (10, 400), 0)
    sheet = contact_sheet([(wide, "a red apple"), (None, ""), (high, "b")])
    middle = GAP + CELL // 2
    assert sheet.getpixel((middle, middle)) == RED
    assert sheet.getpixel((middle, GAP)) == PAPER, "its shape stays"
    assert sheet.getpixel((middle + CELL + GAP, middle)) == MISSING
    assert sheet.getpixel((middle, middle + STEP)) == (0, 0, 0)
    below = (GAP, GAP + CELL, GAP + CELL, STEP)
    assert INK in colours(sheet, below)
    assert colours(sheet, (GAP + CELL + GAP, GAP + CELL, sheet.width, STEP)) == {PAPER}


@pytest.mark.parametrize(
    "text", ["", "a", "a red apple on a blue background, " * 9, "x" * 500, "x" * 500 + " y", "\u7ea2 \n\t a"]
)
def test_text_fits_below_an_image(text: str) -> None:
    font = ImageFont.load_default(12)
    lines = wrapped(text, font)
    assert len(lines) <= LINES
    assert all(font.getlength(line) <= CELL for line in lines)
    if font.getlength(text) <= CELL:
        assert " ".join(lines) == " ".join(text.split())
    else:
        assert lines[-1].endswith("\u2026") or lines[0].endswith("\u2026")


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an image"):
        contact_sheet([])
