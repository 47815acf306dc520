"""Answers of the server on standard output: a table in plain text, or JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import typer
from pydantic import BaseModel


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a line of heads and a line for each row."""
    texts = [[*heads], *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for line in texts:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def print_json(answer: BaseModel | Sequence[BaseModel]) -> None:
    """Prints an answer as JSON, or several as one list."""
    if isinstance(answer, BaseModel):
        document: Any = answer.model_dump(mode="json")
    else:
        document = [each.model_dump(mode="json") for each in answer]
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def date(unix_s: float) -> str:
    """Returns a time in UTC, as `2026-11-30 04:05`."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(unix_s))


def dash(value: object | None) -> object:
    """Returns the value, or `-` for none."""
    return "-" if value is None or value == "" else value
