"""`darkroom keys`: manages API keys through the API of a running server."""

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
        help="The server; by default the embedded platform of this folder, else http://127.0.0.1:8000.",
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
        help="A key with the scope admin; by default the key of the embedded platform of this folder.",
        envvar="DARKROOM_API_KEY",
        callback=credential,
        show_default=False,
    ),
]


@app.command()
def new() -> None:
    """Print a new key for DARKROOM_ADMIN_KEY, the first key of a server. Needs no server."""
    typer.echo(new_token())


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(help="The tenant; all keys of a tenant see the same jobs.")],
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="Also give it the scope admin.")] = False,
    requests_per_minute: Annotated[
        float | None, typer.Option(callback=positive, help="Submits per minute.")
    ] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Submits in one burst.")] = None,
    concurrent_jobs: Annotated[
        int | None, typer.Option(min=1, help="Jobs that have not ended, at most.")
    ] = None,
    queued_jobs: Annotated[int | None, typer.Option(min=1, help="Jobs in the queue, at most.")] = None,
    images_per_day: Annotated[int | None, typer.Option(min=1, help="Pictures per day (UTC).")] = None,
    weight: Annotated[
        float, typer.Option(callback=positive, help="The tenant's share of the devices.")
    ] = 1.0,
    priority: Annotated[
        list[str] | None, typer.Option(help="A priority class that is allowed; repeatable.")
    ] = None,
    url: Url = "",
    key: Key = "",
) -> None:
    """Create a key and print it. It is shown only once: the server keeps only its hash."""
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
    tenant: Annotated[str, typer.Option(help="Only keys of this tenant.")] = "", url: Url = "", key: Key = ""
) -> None:
    """List all keys, newest first. The id is the beginning of a key."""
    path = "/v1/keys" + (f"?{urlencode({'tenant': tenant})}" if tenant else "")
    typer.echo(f"{'ID':13}{'TENANT':20}{'SCOPES':16}{'CREATED':18}{'REVOKED':18}NAME")
    for entry in _call(url, key, "GET", path, "data")["data"]:
        revoked = _date(entry["revoked_at"]) if entry["revoked_at"] else "-"
        scopes = ",".join(entry["scopes"])
        created = _date(entry["created_at"])
        typer.echo(f"{entry['id']:13}{entry['tenant']:20}{scopes:16}{created:18}{revoked:18}{entry['name']}")


@app.command()
def revoke(
    key_id: Annotated[
        str, typer.Argument(help="The id of the key, as `list` shows it.", callback=identifier)
    ],
    url: Url = "",
    key: Key = "",
) -> None:
    """Revoke a key for good. Jobs that were submitted with it go on."""
    revoked = _call(url, key, "DELETE", f"/v1/keys/{key_id}", "id")
    typer.echo(f"{revoked['id']} of {revoked['tenant']} is revoked.")


def _call(
    url: str, key: str, method: str, path: str, needed: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Sends a request, and returns the answer, which has the field `needed`. Ends the command on an error."""
    if not key:
        # The platform of this folder may listen on another port. Another server may have the default port.
        platform = record.running()
        url = url or (platform.url if platform else DEFAULT_SERVER)
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
        _fail("Give a key with the scope admin: --key or DARKROOM_API_KEY.")


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)


def _date(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(unix_s))
