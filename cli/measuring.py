"""`darkroom bench` and `darkroom plan`: scripts of `benchmarks/` that run in this process's place."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Final

import typer

# All arguments, `--help` too, are the script's own.
_PASSED: Final = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(context_settings=_PASSED, add_help_option=False)(bench)
    app.command(context_settings=_PASSED, add_help_option=False)(plan)


def bench(context: typer.Context) -> None:
    """Load a server, or a platform of its own, and report what it can carry. `--help` lists the options."""
    _become("benchmarks.load", context.args)


def plan(context: typer.Context) -> None:
    """How many GPUs your users need, hour by hour, by simulating their day. `--help` lists the options."""
    _become("benchmarks.plan", context.args)


def _become(module: str, arguments: list[str]) -> None:
    """Ctrl-C and the exit code are the script's own."""
    if find_spec("benchmarks") is None or find_spec("aiohttp") is None:
        typer.echo("This needs the benchmarks: in the checkout, pip install -e '.[bench]'.", err=True)
        raise typer.Exit(1)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606
