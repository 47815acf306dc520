"""`darkroom moderation`: policies, and what they need."""

from __future__ import annotations

import typer

from cli.group import Commands
from cli.moderation_fit_pictures import fit_pictures
from cli.moderation_import import import_list
from cli.moderation_reviews import export, log, refuse, release, reviews, undo

app = typer.Typer(
    cls=Commands,
    help="Moderation: lists of known images, heads on pictures, held images.\n\nExample: darkroom moderation import --help",
    no_args_is_help=True,
)
app.command("import")(import_list)
app.command("fit-pictures")(fit_pictures)
for command in (reviews, release, refuse, undo, export, log):
    app.command()(command)
