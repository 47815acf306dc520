"""`darkroom keys`: API keys, through the administration of a running server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import httpx
import typer

from cli.platform import ADMIN_KEY_FILE
from contracts.tenancy import new_token

TIMEOUT_S: Final = 10.0

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)

Url = Annotated[str, typer.Option("--url", help="The server.", envvar="DARKROOM_URL")]
Key = Annotated[
    str,
    typer.Option(
        help="A key with the scope admin; by default the one of the embedded platform in this folder.",
        envvar="DARKROOM_API_KEY",
        show_default=False,
    ),
]
HERE: Final = "http://127.0.0.1:8000"


@app.command()
def new() -> None:
    """Print a fresh key for DARKROOM_ADMIN_KEY, the first key of a server. Asks no server."""
    typer.echo(new_token())


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(help="Whom it speaks for: keys of one tenant see the same jobs.")],
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="It may also administer.")] = False,
    requests_per_minute: Annotated[float | None, typer.Option(help="Submits per minute.")] = None,
    burst: Annotated[int | None, typer.Option(help="Submits at once.")] = None,
    concurrent_jobs: Annotated[int | None, typer.Option(help="Jobs that have not ended.")] = None,
    queued_jobs: Annotated[int | None, typer.Option(help="Jobs that have not begun to run.")] = None,
    images_per_day: Annotated[int | None, typer.Option(help="Pictures per day of UTC.")] = None,
    weight: Annotated[float, typer.Option(help="The tenant's share of the devices.")] = 1.0,
    priority: Annotated[list[str] | None, typer.Option(help="A priority class allowed; repeatable.")] = None,
    url: Url = HERE,
    key: Key = "",
) -> None:
    """Create a key and print it, once: the server keeps only its hash."""
    request: dict[str, Any] = {
        "tenant": tenant,
        "name": name,
        "scopes": ["generate", "admin"] if admin else ["generate"],
        "requests_per_minute": requests_per_minute,
        "burst": burst,
        "concurrent_jobs": concurrent_jobs,
        "queued_jobs": queued_jobs,
        "images_per_day": images_per_day,
        "weight": weight,
    }
    if priority:
        request["priorities"] = priority
    typer.echo(_call(url, key, "POST", "/v1/keys", request)["key"])


@app.command("list")
def list_keys(
    tenant: Annotated[str, typer.Option(help="Of this tenant only.")] = "", url: Url = HERE, key: Key = ""
) -> None:
    """List all keys by their first letters, newest first."""
    path = "/v1/keys" + (f"?tenant={tenant}" if tenant else "")
    typer.echo(f"{'ID':13}{'TENANT':20}{'SCOPES':16}{'CREATED':18}{'REVOKED':18}NAME")
    for each in _call(url, key, "GET", path)["data"]:
        revoked = _date(each["revoked_at"]) if each["revoked_at"] else "-"
        scopes = ",".join(each["scopes"])
        created = _date(each["created_at"])
        typer.echo(f"{each['id']:13}{each['tenant']:20}{scopes:16}{created:18}{revoked:18}{each['name']}")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The first letters, as `list` shows them.")],
    url: Url = HERE,
    key: Key = "",
) -> None:
    """Revoke a key, for good. The jobs submitted with it go on."""
    ended = _call(url, key, "DELETE", f"/v1/keys/{key_id}")
    typer.echo(f"{ended['id']} of {ended['tenant']} is revoked.")


def _call(url: str, key: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    given = key or _key_here()
    try:
        response = httpx.request(
            method, url + path, json=body, headers={"Authorization": f"Bearer {given}"}, timeout=TIMEOUT_S
        )
        answer: dict[str, Any] = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        _fail(f"{url} does not answer as Darkroom does: {type(error).__name__}.")
    if response.is_error:
        _fail(answer["error"]["message"])
    return answer


def _key_here() -> str:
    try:
        return Path(".cache/platform", ADMIN_KEY_FILE).read_text(encoding="ascii").strip()
    except OSError:
        _fail("Give a key with the scope admin: --key, or DARKROOM_API_KEY.")


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)


def _date(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(unix_s))
