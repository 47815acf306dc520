"""The server that a command calls, and with which key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer

from cli import record
from client import Client, ClientError
from client.protocol import DEFAULT_SERVER
from contracts import exit_codes

FEW_RETRIES: Final = 1
"""A person waits for the answer: a server that is away is reported within a second."""


@contextmanager
def connected(server: str | None, api_key: str | None, *, retries: int = FEW_RETRIES) -> Iterator[Client]:
    """Yields a client of `server`, else of the platform that runs in this folder, else of the default server.

    An error of the client ends the command with one line and exit code 1.
    """
    platform = None if server else record.running()
    url = platform.url if platform else server
    with one_line_errors(), Client(url, api_key=api_key, retries=retries) as client:
        yield client


@contextmanager
def connected_as_admin(server: str | None, api_key: str | None) -> Iterator[Client]:
    """Yields a client with `api_key`, else with the first key of the platform of this folder.

    That key is not sent to another server. Without a key the command ends with exit code 2.
    """
    if api_key is None:
        platform = record.running()
        here = platform.url if platform else DEFAULT_SERVER
        api_key = record.stored_key(record.FOLDER) if server in (None, here) else None
        if api_key is None:
            raise typer.BadParameter(
                "Give a key with the scope admin: --api-key or DARKROOM_API_KEY.", param_hint="--api-key"
            )
    with connected(server, api_key) as client:
        yield client


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns an error of the client into one line and exit code 1. Raises `typer.Exit`."""
    try:
        yield
    except ClientError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(exit_codes.FAILED) from None
