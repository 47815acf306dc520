"""Options that several commands share, and the checks of their values.

A wrong value ends a command before it does anything.
"""

from __future__ import annotations

import math
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from cli.group import warn_renamed
from client.protocol import DEFAULT_SERVER
from contracts.tenancy import is_tenant
from contracts.urls import web_url

SERVER: Final = "DARKROOM_SERVER"
OLD_SERVER: Final = "DARKROOM_URL"
"""The old name of `SERVER`. The next release drops it."""
_ID: Final = re.compile(r"[\w-]{1,100}", re.ASCII)


def address(text: str | None) -> str | None:
    """Returns a server's URL without a slash at its end. Raises `typer.BadParameter`."""
    if not text:
        return text
    try:
        httpx.URL(web_url(text))
        return text.rstrip("/")
    except (ValueError, httpx.InvalidURL) as error:
        raise typer.BadParameter(
            f"{text!r} is not the URL of a server, such as {DEFAULT_SERVER}: {error}."
        ) from None


def credential(text: str | None) -> str | None:
    """Returns a key that a header can carry: https://www.rfc-editor.org/rfc/rfc6750#section-2.1.

    Raises `typer.BadParameter`.
    """
    if text and not (text.isascii() and text.isprintable() and " " not in text):
        raise typer.BadParameter("A key consists of ASCII letters, digits and punctuation, without spaces.")
    return text


def writable(path: Path) -> Path:
    """Returns the path of a file that can be created, a folder that is writable, or `-`.

    Raises `typer.BadParameter`.
    """
    if str(path) == "-":
        return path
    folder = path if path.is_dir() else path.parent
    if not path.name and not path.is_dir():
        raise typer.BadParameter("Name a file or a folder, or - for standard output.")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"{folder} is not a writable folder.")
    return path


def at_least_zero(value: float | None) -> float | None:
    """Returns a finite number of 0 or more. Raises `typer.BadParameter`."""
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise typer.BadParameter(f"{value:g} is not 0 or more.")
    return value


def positive(value: float | None) -> float | None:
    """Returns a finite number above 0. Raises `typer.BadParameter`."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"{value:g} is not above 0.")
    return value


def identifier(text: str | None) -> str | None:
    """Returns an id, which becomes a part of a URL. Raises `typer.BadParameter`."""
    if text is not None and not _ID.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not an id.")
    return text


def tenant_name(text: str | None) -> str | None:
    """Returns the name of a tenant. Raises `typer.BadParameter`."""
    if text is not None and not is_tenant(text):
        raise typer.BadParameter(
            f"{text!r} is not a tenant: a name has 1 to 63 characters of a-z, 0-9, _ and -."
        )
    return text


def _server(context: typer.Context, text: str | None) -> str | None:
    if text is None and (old := os.environ.get(OLD_SERVER)) and not context.resilient_parsing:
        warn_renamed(OLD_SERVER, SERVER)
        text = old
    return address(text)


class Priority(StrEnum):
    """The classes of jobs."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        help=f"The server; by default the platform that runs in this folder, else {DEFAULT_SERVER}.",
        envvar=SERVER,
        callback=_server,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        help="The API key, if the server needs one.",
        envvar="DARKROOM_API_KEY",
        callback=credential,
    ),
]
AdminKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        help="A key with the scope admin; by default the key of the platform of this folder.",
        envvar="DARKROOM_API_KEY",
        callback=credential,
    ),
]
JobId = Annotated[str, typer.Argument(help="The id, job_...", callback=identifier)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
