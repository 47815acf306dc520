"""`darkroom verify`: checks the content credentials of an image file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from cli.options import Json
from cli.output import FORMATS
from cli.tables import print_json
from contracts import exit_codes
from moderation.provenance.trust import anchors

MAX_FILE_BYTES: Final = 256 * 2**20

File = Annotated[str, typer.Argument(metavar="FILE", help="A PNG, JPEG or WebP file.", show_default=False)]
Trust = Annotated[
    str | None,
    typer.Option("--trust", metavar="FILE", help="Certificates in PEM whose holders you trust."),
]


def verify(file: File, trust: Trust = None, json: Json = False) -> None:
    """Check who drew a picture, and whether it was changed since: its content credentials (C2PA).

    Exit code 0: the credentials hold. 1: there are none, they do not hold, or with --trust the signer is not trusted.

    Example: darkroom verify picture.png --trust anchors.pem
    """
    try:
        from moderation.provenance.reading import Unreadable, read  # its library is an extra
    except ModuleNotFoundError:
        raise _unusable("it needs the extra c2pa: pip install 'darkroom[c2pa]'") from None
    data, content_type = _file(file)
    try:
        found = read(data, content_type, _anchors(trust))
    except Unreadable as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(exit_codes.FAILED) from None
    if json:
        print_json(found)
    elif not found.signed:
        typer.echo(f"{file} has no content credentials.", err=True)
    else:
        for name, value in (
            ("validity", found.validity),
            ("signed by", found.issuer),
            ("drawn by", found.generator),
            ("model", " ".join(filter(None, (found.model, found.model_revision)))),
            ("kind", found.source_type),
            ("prompt", found.prompt),
            ("problems", ", ".join(found.problems)),
        ):
            if value:
                typer.echo(f"{name:10} {value}")
    if found.validity in (None, "invalid") or (trust is not None and found.validity != "trusted"):
        raise typer.Exit(exit_codes.FAILED)


def _file(name: str) -> tuple[bytes, str]:
    kind = FORMATS.get(Path(name).suffix.lower())
    if kind is None:
        raise _unusable(f"{name!r} is no .png, .jpg, .jpeg or .webp file")
    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise _unusable(f"{name!r} cannot be read: {reason}") from None
    if len(data) > MAX_FILE_BYTES:
        raise _unusable(f"{name!r} is larger than {MAX_FILE_BYTES} bytes")
    return data, f"image/{kind}"


def _anchors(trust: str | None) -> str:
    try:
        return anchors(None if trust is None else Path(trust))
    except ValueError as error:
        raise _unusable(f"--trust: {error}") from None


def _unusable(reason: str) -> typer.Exit:
    typer.echo(f"darkroom verify: {reason}", err=True)
    return typer.Exit(exit_codes.UNUSABLE)
