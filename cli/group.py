"""The group class of all commands: it checks arguments before a command parses them, and takes options by their old names."""

from __future__ import annotations

from typing import Any, Final

import typer
from typer.core import TyperGroup

RENAMED: Final = {"--url": "--server", "--key": "--api-key"}
"""Options by their old names. The next release drops the old names."""


class Commands(TyperGroup):
    """Refuses arguments that are not UTF-8, and replaces options of `RENAMED` with a warning."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Checks `args`, and parses them. Raises `typer.BadParameter`."""
        for argument in args:
            if any("\ud800" <= character <= "\udfff" for character in argument):
                raise typer.BadParameter(f"{argument!r} is not UTF-8.")
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns the name and the command that `args` begin with, and its arguments under their new names."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is None or ctx.resilient_parsing:  # a shell asks for completions
            return name, command, rest
        options = {option for parameter in command.params for option in parameter.opts}
        return name, command, renamed(rest, options)


def renamed(arguments: list[str], options: set[str]) -> list[str]:
    """Returns the arguments of a command with `options`, each option under its new name.

    Prints a warning for each old name.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    found = []
    for argument in arguments[:end]:
        old, equals, value = argument.partition("=")
        new = RENAMED.get(old)
        if new in options and old not in options:
            warn_renamed(old, str(new))
            argument = f"{new}{equals}{value}"
        found.append(argument)
    return found + arguments[end:]


def warn_renamed(old: str, new: str) -> None:
    """Says on standard error that an option or a variable has a new name."""
    typer.echo(f"Warning: {old} is now {new}. The next release drops the old name.", err=True)
