"""Reads and writes RabbitMQ's definitions: users, virtual hosts, permissions, policies, queues.

It uses the management API: https://www.rabbitmq.com/docs/definitions. Definitions contain no messages.
"""

from __future__ import annotations

from typing import Annotated, Final

import httpx
import typer

from cli.archive import ArchiveRefused
from contracts.urls import web_url

TIMEOUT_S: Final = 30.0


def _address(text: str | None) -> str | None:
    # The message must not repeat the URL: it holds a password.
    try:
        return text and web_url(text)
    except ValueError as error:
        raise typer.BadParameter(f"This is not the URL of RabbitMQ's management API: {error}.") from None


Api = Annotated[
    str | None,
    typer.Option(
        "--rabbitmq-api",
        envvar="DARKROOM_RABBITMQ_API",
        help="Include users, virtual hosts and policies; the URL of RabbitMQ's management API, http://user:password@host:15672.",
        show_default=False,
        callback=_address,
    ),
]


def export(url: str) -> bytes:
    """Returns all definitions, as JSON. Raises `ArchiveRefused`, `httpx.HTTPError`."""
    return _request("GET", url).content


def load(url: str, definitions: bytes) -> None:
    """Adds the definitions (JSON) to the existing ones. Raises `ArchiveRefused`, `httpx.HTTPError`."""
    _request("POST", url, definitions)


def _request(method: str, url: str, body: bytes | None = None) -> httpx.Response:
    try:
        address = httpx.URL(url.rstrip("/") + "/api/definitions")
    except httpx.InvalidURL:
        raise ArchiveRefused("--rabbitmq-api is not a URL such as http://user:password@host:15672.") from None
    headers = {"content-type": "application/json"}
    response = httpx.request(method, address, content=body, headers=headers, timeout=TIMEOUT_S)
    if response.status_code in (401, 403):
        raise ArchiveRefused("RabbitMQ's management API refuses the user: it needs the tag administrator.")
    if response.is_error:
        raise ArchiveRefused(f"RabbitMQ's management API answered {response.status_code}.")
    return response
