"""`darkroom bench` and `darkroom plan`: replace this process with a script of `benchmarks/`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from typing import Any, Final

import typer
from typer._click.shell_completion import CompletionItem  # typer has no public name for it
from typer.core import TyperCommand

from contracts import exit_codes

# The script parses all arguments, `--help` too.
_PASS_THROUGH: Final = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
_OPTION: Final = re.compile(r"^ +(?:-\w[^,]*, )?(--[a-z][\w-]*)", re.MULTILINE)
SCRIPTS: Final = {"bench": "benchmarks.load", "plan": "benchmarks.plan"}
"""The script of each command."""
HELP_S: Final = 20.0
"""The longest wait for the help text of a script."""


class Script(TyperCommand):
    """A command whose options only its script knows. A shell completes them from the script's help text."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Returns the script's options that begin with `incomplete`."""
        options = _options(SCRIPTS[str(self.name)])
        return [CompletionItem(option) for option in options if option.startswith(incomplete)]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.command(cls=Script, context_settings=_PASS_THROUGH, add_help_option=False)(bench)
    app.command(cls=Script, context_settings=_PASS_THROUGH, add_help_option=False)(plan)


def bench(context: typer.Context) -> None:
    """Load a server, or a platform started for the test, and report its throughput. `--help` lists the options.

    Example: darkroom bench --server http://127.0.0.1:8000 --rate 5 --duration 30
    """
    _exec_script("bench", context.args)


def plan(context: typer.Context) -> None:
    """Simulate a day of your users, and report how many GPUs each hour needs. `--help` lists the options.

    Example: darkroom plan --users 50000 --images-per-day 20
    """
    _exec_script("plan", context.args)


def _exec_script(name: str, arguments: list[str]) -> None:
    """Replaces this process, so that the script receives Ctrl-C and sets the exit code."""
    if find_spec("benchmarks") is None or find_spec("aiohttp") is None:
        typer.echo("This needs the benchmarks: in the checkout, pip install -e '.[bench]'.", err=True)
        raise typer.Exit(exit_codes.FAILED)
    os.execv(sys.executable, [sys.executable, "-m", SCRIPTS[name], *arguments])  # noqa: S606


def _options(module: str) -> list[str]:
    """Returns the options in the help text of a script; none if the benchmarks are not installed."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"],
            capture_output=True,
            text=True,
            timeout=HELP_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return sorted({match[1] for match in _OPTION.finditer(done.stdout)})
