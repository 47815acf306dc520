"""`darkroom moderation import`: makes a list of known images that a policy can name."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli.options import Json
from contracts import exit_codes
from contracts.moderation import CATEGORY
from moderation.child_embedder import ChildEmbedder, EmbeddingFailed

SHOWN_FAULTS: Final = 20
SOURCE: Final = "A CSV or XML file of hashes, or a folder of images."


class HashType(StrEnum):
    """The kinds of hashes that a list may have."""

    SHA256 = "sha256"
    MD5 = "md5"
    PDQ = "pdq"


def _category(text: str) -> str:
    if not re.fullmatch(CATEGORY, text):
        raise typer.BadParameter(f"{text!r} is no category: lower-case letters, digits and _.")
    return text


CategoryOption = Annotated[
    str, typer.Option(help="What the images show, such as weapons.", callback=_category)
]


def import_list(
    source: Annotated[Path, typer.Argument(help=SOURCE, exists=True, readable=True)],
    category: CategoryOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="The list to write.", dir_okay=False)],
    hash_type: Annotated[
        HashType | None, typer.Option(help="The kind of hashes in rows that do not say it.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out rows that cannot be used, and write the rest.")
    ] = False,
    clip: Annotated[
        str,
        typer.Option(
            envvar="DARKROOM_CLIP",
            help="The CLIP of the workers, by which the images of a folder are embedded; empty: they are not.",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Make a list of known images for a policy, of hashes that are exchanged or of images.

    Example: darkroom moderation import known.csv --category weapons --out known.pdq
    """
    try:
        from moderation.hashes import importing
    except ModuleNotFoundError as error:
        end_unusable(f"This needs the package {error.name}: pip install 'darkroom[moderation]'.")
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[read]} read"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with ExitStack() as stack:
        try:
            embedder = stack.enter_context(ChildEmbedder(clip)) if clip and source.is_dir() else None
            stack.enter_context(bar)
            task = bar.add_task("", total=None, read=0)
            header, collected = importing.import_list(
                source,
                out,
                category,
                kind=None if hash_type is None else hash_type.value,
                skip_bad=skip_bad,
                embedder=embedder,
                progress=lambda read: bar.update(task, read=read),
            )
        except importing.BadRows as error:
            bar.stop()
            for fault in error.faults[:SHOWN_FAULTS]:
                typer.echo(f"line {fault.line}: {fault.reason}", err=True)
            end_unusable(
                f"{source} has {error.count} rows that cannot be used. Nothing was written; --skip-bad leaves them out."
            )
        except EmbeddingFailed as error:
            end_unusable(str(error))
        except OSError as error:
            end_unusable(f"{error.filename or out}: {error.strerror}.")
    for fault in collected.faults[:SHOWN_FAULTS]:
        typer.echo(f"line {fault.line} was left out: {fault.reason}", err=True)
    if as_json:
        answer = {"list": str(out), "category": category, "revision": header.revision}
        typer.echo(json.dumps({**answer, "counts": header.counts, "bad": collected.bad}, indent=2))
        return
    counts = ", ".join(f"{count} {name}" for name, count in header.counts.items()) or "nothing"
    typer.echo(
        f"{out}@{header.revision}: {counts}" + (f"; {collected.bad} rows left out" if collected.bad else "")
    )


def end_unusable(reason: str) -> NoReturn:
    """Say why nothing was done, and end the command."""
    typer.echo(reason, err=True)
    raise typer.Exit(exit_codes.UNUSABLE)
