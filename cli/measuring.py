"""`darkroom bench` and `darkroom plan`: replace this process with a script of `benchmarks/`."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Final

import typer

# The script parses all arguments, `--help` too.
_PASS_THROUGH: Final = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.command(context_settings=_PASS_THROUGH, add_help_option=False)(bench)
    app.command(context_settings=_PASS_THROUGH, add_help_option=False)(plan)


def bench(context: typer.Context) -> None:
    """Load a server, or a platform started for the test, and report its throughput. `--help` lists the options."""
    _exec_script("benchmarks.load", context.args)


def plan(context: typer.Context) -> None:
    """Simulate a day of your users, and report how many GPUs each hour needs. `--help` lists the options."""
    _exec_script("benchmarks.plan", context.args)


def _exec_script(module: str, arguments: list[str]) -> None:
    """Replaces this process, so that the script receives Ctrl-C and sets the exit code."""
    if find_spec("benchmarks") is None or find_spec("aiohttp") is None:
        typer.echo("This needs the benchmarks: in the checkout, pip install -e '.[bench]'.", err=True)
        raise typer.Exit(1)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606
