"""What the values of options must be. For argparse's `type=`: what is wrong ends the script with 2 and one line, before it begins."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Final

import httpx

from contracts.urls import web_url

MOST: Final = 1e12
"""More than anything that is counted or waited for here; beyond it sums overflow."""


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no number that can be used")
    return value


def positive(text: str) -> float:
    if (value := number(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def at_least_zero(text: str) -> float:
    if (value := number(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def share(text: str) -> float:
    """0 to 1."""
    if not 0 <= (value := number(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: it must be from 0 to 1")
    return value


def below_one(text: str) -> float:
    """A share that leaves something over."""
    if not 0 <= (value := number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no such share: at least 0, below 1")
    return value


def whole(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if not 0 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {MOST:.0g}")
    return value


def count(text: str) -> int:
    """At least 1."""
    if (value := whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def server(text: str) -> str:
    """A URL, without a slash at its end."""
    try:
        httpx.URL(web_url(text))
        return text.rstrip("/")
    except (ValueError, httpx.InvalidURL) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no server: {error}") from None


def readable(text: str) -> Path:
    path = Path(text)
    if not path.is_file() or not os.access(path, os.R_OK):
        raise argparse.ArgumentTypeError(f"{text!r} is no file that can be read")
    return path


def writable(text: str) -> Path:
    """A file to be written later: its folder may be missing, but must be possible."""
    path = Path(text)
    there = next((each for each in (path, *path.parents) if each.exists()), Path())
    if not text or path.is_dir() or (there != path and not there.is_dir()) or not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} is no file that can be written")
    return path
