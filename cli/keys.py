"""`darkroom keys`: API keys, through the administration of a running server."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final, NoReturn
from urllib.parse import urlencode

import httpx
import typer

from cli import record
from cli.options import address, credential, identifier, positive
from client.protocol import DEFAULT_SERVER
from contracts.tenancy import new_token

TIMEOUT_S: Final = 10.0

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)

Url = Annotated[
    str,
    typer.Option(
        "--url",
        "--server",
        help="The server; by default the embedded platform that runs in this folder, else http://127.0.0.1:8000.",
        envvar=["DARKROOM_URL", "DARKROOM_SERVER"],
        callback=address,
        show_default=False,
    ),
]
Key = Annotated[
    str,
    typer.Option(
        "--key",
        "--api-key",
        help="A key with the scope admin; by default the one of the embedded platform in this folder.",
        envvar="DARKROOM_API_KEY",
        callback=credential,
        show_default=False,
    ),
]


@app.command()
def new() -> None:
    """Print a fresh key for DARKROOM_ADMIN_KEY, the first key of a server. Asks no server."""
    typer.echo(new_token())


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(help="Whom it speaks for: keys of one tenant see the same jobs.")],
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="It may also administer.")] = False,
    requests_per_minute: Annotated[
        float | None, typer.Option(callback=positive, help="Submits per minute.")
    ] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Submits at once.")] = None,
    concurrent_jobs: Annotated[int | None, typer.Option(min=1, help="Jobs that have not ended.")] = None,
    queued_jobs: Annotated[int | None, typer.Option(min=1, help="Jobs that have not begun to run.")] = None,
    images_per_day: Annotated[int | None, typer.Option(min=1, help="Pictures per day of UTC.")] = None,
    weight: Annotated[
        float, typer.Option(callback=positive, help="The tenant's share of the devices.")
    ] = 1.0,
    priority: Annotated[list[str] | None, typer.Option(help="A priority class allowed; repeatable.")] = None,
    url: Url = "",
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
    typer.echo(_call(url, key, "POST", "/v1/keys", "key", request)["key"])


@app.command("list")
def list_keys(
    tenant: Annotated[str, typer.Option(help="Of this tenant only.")] = "", url: Url = "", key: Key = ""
) -> None:
    """List all keys by their first letters, newest first."""
    path = "/v1/keys" + (f"?{urlencode({'tenant': tenant})}" if tenant else "")
    typer.echo(f"{'ID':13}{'TENANT':20}{'SCOPES':16}{'CREATED':18}{'REVOKED':18}NAME")
    for each in _call(url, key, "GET", path, "data")["data"]:
        revoked = _date(each["revoked_at"]) if each["revoked_at"] else "-"
        scopes = ",".join(each["scopes"])
        created = _date(each["created_at"])
        typer.echo(f"{each['id']:13}{each['tenant']:20}{scopes:16}{created:18}{revoked:18}{each['name']}")


@app.command()
def revoke(
    key_id: Annotated[
        str, typer.Argument(help="The first letters, as `list` shows them.", callback=identifier)
    ],
    url: Url = "",
    key: Key = "",
) -> None:
    """Revoke a key, for good. The jobs submitted with it go on."""
    ended = _call(url, key, "DELETE", f"/v1/keys/{key_id}", "id")
    typer.echo(f"{ended['id']} of {ended['tenant']} is revoked.")


def _call(
    url: str, key: str, method: str, path: str, needed: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The server's answer, which holds `needed`."""
    if not key:
        # The platform of this folder may listen elsewhere than at the usual port, where another one may.
        found = record.running()
        url = url or (found.url if found else DEFAULT_SERVER)
        key = _key_here()
    url = url or DEFAULT_SERVER
    try:
        response = httpx.request(
            method, url + path, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT_S
        )
        answer: dict[str, Any] = response.json()
        if response.is_error:
            _fail(str(answer["error"]["message"]))
        answer[needed]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        _fail(f"{url} does not answer as Darkroom does: {type(error).__name__}.")
    return answer


def _key_here() -> str:
    try:
        return (record.FOLDER / record.KEY_FILE).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        _fail("Give a key with the scope admin: --key, or DARKROOM_API_KEY.")


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)


def _date(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(unix_s))
