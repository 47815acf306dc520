"""RabbitMQ's definitions: users, virtual hosts, permissions, policies, queues; by its management API
(https://www.rabbitmq.com/docs/definitions). Messages are no part of them."""

from __future__ import annotations

from typing import Annotated, Final

import httpx
import typer

from cli.archive import ArchiveRefused
from contracts.urls import web_url

TIMEOUT_S: Final = 30.0


def _address(text: str | None) -> str | None:
    # Never repeated: it holds a password.
    try:
        return text and web_url(text)
    except ValueError as error:
        raise typer.BadParameter(f"This is no address of RabbitMQ's management API: {error}.") from None


Api = Annotated[
    str | None,
    typer.Option(
        "--rabbitmq-api",
        envvar="DARKROOM_RABBITMQ_API",
        help="RabbitMQ's management API, http://user:password@host:15672: users, virtual hosts and policies too.",
        show_default=False,
        callback=_address,
    ),
]


def export(url: str) -> bytes:
    """All definitions, as JSON. Raises `ArchiveRefused`, `httpx.HTTPError`."""
    return _ask("GET", url).content


def load(url: str, definitions: bytes) -> None:
    """Adds the definitions to those that are there. Raises `ArchiveRefused`, `httpx.HTTPError`."""
    _ask("POST", url, definitions)


def _ask(method: str, url: str, body: bytes | None = None) -> httpx.Response:
    try:
        address = httpx.URL(url.rstrip("/") + "/api/definitions")
    except httpx.InvalidURL:
        raise ArchiveRefused("--rabbitmq-api is no URL: http://user:password@host:15672.") from None
    json = {"content-type": "application/json"}
    response = httpx.request(method, address, content=body, headers=json, timeout=TIMEOUT_S)
    if response.status_code in (401, 403):
        raise ArchiveRefused("RabbitMQ's management API refuses the user: it needs the tag administrator.")
    if response.is_error:
        raise ArchiveRefused(f"RabbitMQ's management API answered {response.status_code}.")
    return response
