"""`darkroom version`: the version of this installation."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of

import typer


def version() -> None:
    """Print the version of Darkroom and of Python.

    Example: darkroom version
    """
    typer.echo(f"darkroom {version_of('darkroom')} (Python {platform.python_version()})")


def print_and_end(wanted: bool) -> None:
    """Prints the version, and ends the command, if `--version` is given. Raises `typer.Exit`."""
    if wanted:
        version()
        raise typer.Exit
