"""`darkroom cache`: statistics of the result cache of a running server, and forgetting results."""

from __future__ import annotations

import re
from typing import Annotated, Final

import typer

from cli.group import Commands
from cli.options import AdminKey, Json, Server, tenant_name
from cli.report import mebibytes
from cli.server import connected_as_admin
from cli.tables import print_json

_CACHE_KEY: Final = re.compile(r"[0-9a-f]{64}")

app = typer.Typer(
    cls=Commands,
    help="The result cache: stats, purge.\n\nExample: darkroom cache stats",
    no_args_is_help=True,
)


def _cache_key(text: str | None) -> str | None:
    if text is not None and not _CACHE_KEY.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not 64 hexadecimal digits, as X-Cache-Key has them.")
    return text


def _name(text: str | None) -> str | None:
    if text == "":
        raise typer.BadParameter("A name is not empty.")
    return text


@app.command()
def stats(as_json: Json = False, server: Server = None, api_key: AdminKey = None) -> None:
    """Show how many jobs the cache has answered, and what it holds.

    Example: darkroom cache stats
    """
    with connected_as_admin(server, api_key) as client:
        counts = client.cache_stats()
    if as_json:
        print_json(counts)
        return
    jobs = counts.hits + counts.misses + counts.joined
    limit = f" of {mebibytes(counts.memory_limit_bytes)}" if counts.memory_limit_bytes else ""
    typer.echo(
        f"{jobs} jobs: {counts.hits} from the cache, {counts.joined} joined another, {counts.misses} drawn"
    )
    typer.echo(f"{counts.entries} results, {counts.evictions} evicted")
    typer.echo(f"{mebibytes(counts.memory_bytes)}{limit} of memory, of the whole Redis")


@app.command()
def purge(
    cache_key: Annotated[
        str | None, typer.Option(help="The X-Cache-Key of a job.", callback=_cache_key)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Results of this model.", callback=_name)] = None,
    revision: Annotated[
        str | None, typer.Option(help="Results of this revision of a model.", callback=_name)
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Results of this tenant.", callback=tenant_name)] = None,
    server: Server = None,
    api_key: AdminKey = None,
) -> None:
    """Forget every result that matches all given options. Pictures are not deleted.

    Example: darkroom cache purge --model emoji-turbo
    """
    if cache_key is model is revision is tenant is None:
        raise typer.BadParameter("Give at least one of --cache-key, --model, --revision and --tenant.")
    with connected_as_admin(server, api_key) as client:
        purged = client.purge_cache(key=cache_key, model=model, revision=revision, tenant=tenant)
    typer.echo(f"{purged} results are forgotten.")
