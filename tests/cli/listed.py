"""All commands of `darkroom`, as its help knows them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import typer.main

from cli.main import app

Path = tuple[str, ...]
PASSED_ON = ("bench", "plan")
"""Scripts with a parser of their own."""


@cache
def everything() -> tuple[tuple[Path, Any], ...]:
    """Every command and every group, with its words."""
    return tuple(_below(typer.main.get_command(app), ()))


def _below(command: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from _below(each, (*path, name))


def commands() -> Iterator[tuple[Path, Any]]:
    """Every command that does something, without the scripts."""
    for path, command in everything():
        if not hasattr(command, "commands") and path[0] not in PASSED_ON:
            yield path, command


def calling() -> Iterator[tuple[Path, Any]]:
    """Every command that calls a server."""
    for path, command in commands():
        if any(parameter.name == "server" for parameter in command.params):
            yield path, command
