"""The options that several commands share, and what each value must be: what is wrong is refused before anything is done."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from client.protocol import DEFAULT_SERVER
from contracts.urls import web_url

_ID: Final = re.compile(r"[\w-]{1,100}", re.ASCII)


def address(text: str | None) -> str | None:
    """A server's URL, without a slash at its end."""
    if not text:
        return text
    try:
        httpx.URL(web_url(text))
        return text.rstrip("/")
    except (ValueError, httpx.InvalidURL) as error:
        raise typer.BadParameter(f"{text!r} is no server, such as {DEFAULT_SERVER}: {error}.") from None


def credential(text: str | None) -> str | None:
    """What a header can carry: https://www.rfc-editor.org/rfc/rfc6750#section-2.1."""
    if text and not (text.isascii() and text.isprintable() and " " not in text):
        raise typer.BadParameter("A key is of letters, digits and signs, without a space.")
    return text


def writable(path: Path) -> Path:
    """A file that can be made, a folder that takes one, or `-`."""
    if str(path) == "-":
        return path
    folder = path if path.is_dir() else path.parent
    if not path.name and not path.is_dir():
        raise typer.BadParameter("Name a file or a folder, or - for standard output.")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"{folder} is no folder that can be written to.")
    return path


def at_least_zero(value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise typer.BadParameter(f"{value:g} is not 0 or more.")
    return value


def positive(value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"{value:g} is not above 0.")
    return value


def identifier(text: str | None) -> str | None:
    """A part of a path of the API."""
    if text is not None and not _ID.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is no id.")
    return text


Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        "--url",
        help="The server; by default http://127.0.0.1:8000.",
        envvar=["DARKROOM_SERVER", "DARKROOM_URL"],
        callback=address,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key", "--key", help="If the server needs one.", envvar="DARKROOM_API_KEY", callback=credential
    ),
]
