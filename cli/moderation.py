"""`darkroom moderation`: policies, and what they need."""

from __future__ import annotations

import typer

from cli.group import Commands
from cli.moderation_import import import_list

app = typer.Typer(
    cls=Commands,
    help="Moderation: lists of known images.\n\nExample: darkroom moderation import --help",
    no_args_is_help=True,
)
app.command("import")(import_list)
