"""`darkroom keys`: manages API keys through the API of a running server."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from cli.group import Commands
from cli.options import AdminKey, Json, Priority, Server, identifier, positive, tenant_name
from cli.server import connected_as_admin
from cli.tables import dash, date, print_json, print_table
from contracts.tenancy import new_token

app = typer.Typer(
    cls=Commands,
    help="API keys: create, list, revoke.\n\nExample: darkroom keys list",
    no_args_is_help=True,
)


@app.command()
def new() -> None:
    """Print a new key for DARKROOM_ADMIN_KEY, the first key of a server. Calls no server.

    Example: darkroom keys new
    """
    typer.echo(new_token())


@app.command()
def create(
    tenant: Annotated[
        str,
        typer.Argument(help="The tenant; all keys of a tenant see the same jobs.", callback=tenant_name),
    ],
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="Also give it the scope admin.")] = False,
    moderate: Annotated[
        bool,
        typer.Option("--moderate", help="For a reviewer: the scope moderate, and no other unless asked for."),
    ] = False,
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
        list[Priority] | None,
        typer.Option(help="A priority class that is allowed; repeatable.", show_default=False),
    ] = None,
    server: Server = None,
    api_key: AdminKey = None,
) -> None:
    """Create a key and print it. It is shown only once: the server keeps only its hash.

    Example: darkroom keys create acme --name shop --images-per-day 1000
    """
    with connected_as_admin(server, api_key) as client:
        created = client.create_key(
            tenant,
            name=name,
            scopes=scopes_of(admin=admin, moderate=moderate),
            requests_per_minute=requests_per_minute,
            burst=burst,
            concurrent_jobs=concurrent_jobs,
            queued_jobs=queued_jobs,
            images_per_day=images_per_day,
            weight=weight,
            priorities=[each.value for each in priority] if priority else None,
        )
    typer.echo(created.key)


def scopes_of(*, admin: bool, moderate: bool) -> list[Literal["generate", "moderate", "admin"]]:
    """Returns the scopes of a new key. A reviewer's key draws nothing, unless it is an administrator's too."""
    if moderate:
        return ["moderate", "admin"] if admin else ["moderate"]
    return ["generate", "admin"] if admin else ["generate"]


@app.command("list")
def list_keys(
    tenant: Annotated[
        str | None, typer.Option(help="Only keys of this tenant.", callback=tenant_name)
    ] = None,
    as_json: Json = False,
    server: Server = None,
    api_key: AdminKey = None,
) -> None:
    """List all keys, newest first. The id is the beginning of a key.

    Example: darkroom keys list --tenant acme
    """
    with connected_as_admin(server, api_key) as client:
        keys = client.keys(tenant=tenant)
    if as_json:
        print_json(keys)
        return
    print_table(
        ("ID", "TENANT", "SCOPES", "CREATED", "REVOKED", "NAME"),
        [
            (
                key.id,
                key.tenant,
                ",".join(key.scopes),
                date(key.created_at),
                date(key.revoked_at) if key.revoked_at else "-",
                dash(key.name),
            )
            for key in keys
        ],
    )


@app.command()
def revoke(
    key_id: Annotated[
        str, typer.Argument(help="The id of the key, as `list` shows it.", callback=identifier)
    ],
    server: Server = None,
    api_key: AdminKey = None,
) -> None:
    """Revoke a key for good. Jobs that were submitted with it go on.

    Example: darkroom keys revoke dk_4fT9aQzB
    """
    with connected_as_admin(server, api_key) as client:
        revoked = client.revoke_key(key_id)
    typer.echo(f"{revoked.id} of {revoked.tenant} is revoked.")
