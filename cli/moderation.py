"""`darkroom moderation`: policies, and what they need."""

from __future__ import annotations

import typer

from cli.group import Commands
from cli.moderation_fit_pictures import fit_pictures
from cli.moderation_import import import_list

app = typer.Typer(
    cls=Commands,
    help="Moderation: lists of known images, heads on pictures.\n\nExample: darkroom moderation import --help",
    no_args_is_help=True,
)
app.command("import")(import_list)
app.command("fit-pictures")(fit_pictures)
