"""`darkroom tenant`: exports or erases the data of one tenant.

It reads the settings of the services, like `darkroom backup`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from backends.redis_client import connect, disconnect
from cli import record, tenant_archive
from cli.group import Commands
from cli.operations import Folder, settings_of
from cli.options import tenant_name, writable
from cli.receipt import Receipt, signed, stamp
from cli.report import REFUSED, fail, one_line_errors, say
from cli.target import PIPE, target_of, written
from contracts.settings import BackendSettings
from contracts.tenancy import RESERVED_TENANTS
from runtime.clock import SystemClock
from store.erasing import Erased, TenantBusy, erase
from store.key_names import Layout
from store.layout import LayoutGuard
from store.stores import Stores, open_stores
from store.tenant_data import Found, Servers, TenantData

app = typer.Typer(
    cls=Commands,
    help="A tenant's data: export, erase.\n\nExample: darkroom tenant erase acme --dry-run",
    no_args_is_help=True,
)


Tenant = Annotated[
    str, typer.Argument(help="The tenant, as its API keys name it.", show_default=False, callback=tenant_name)
]


@app.command("export")
def export_tenant(
    tenant: Tenant,
    out: Annotated[
        Path,
        typer.Argument(
            help="A new file, a folder (the file is then named by tenant and time), or - for standard output.",
            show_default=False,
            callback=writable,
        ),
    ],
    folder: Folder = record.FOLDER,
) -> None:
    """Write all data of a tenant to a tar of JSON and pictures, with a receipt at its end. Changes nothing.

    Example: darkroom tenant export acme acme.tar
    """
    with one_line_errors():
        settings = settings_of(folder)
        target = target_of(out, f"tenant-{tenant}")
        receipt = asyncio.run(_export(settings, tenant, target))
        say(f"{target}: {_words(receipt.counts) or 'there is no data of this tenant'}.")


@app.command("erase")
def erase_tenant(
    tenant: Tenant,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the jobs that have not ended.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be erased.")] = False,
    receipt: Annotated[
        Path,
        typer.Option(
            help="The receipt: a new file, or - for standard output.",
            callback=writable,
        ),
    ] = PIPE,
    folder: Folder = record.FOLDER,
) -> None:
    """Erase all data of a tenant for good: jobs, pictures, API keys and everything else. Prints a receipt.

    The platform may run meanwhile.
    The command refuses while the tenant has jobs that have not ended, unless --cancel is given.
    To resume an interrupted erasure, run the command again.
    Exit code 1: something is left.

    Example: darkroom tenant erase acme --receipt acme.json
    """
    with one_line_errors():
        settings = settings_of(folder)
        target = receipt if receipt == PIPE else target_of(receipt, f"erased-{tenant}", ".json")
        try:
            result = asyncio.run(_erase(settings, tenant, cancel=cancel, dry_run=dry_run))
        except TenantBusy as error:
            fail(f"{error}: wait for them, or give --cancel. Nothing was changed.", REFUSED)
        try:
            with written(target) as out:
                out.write(signed(result).encode())
        except OSError as error:
            # The data is erased, and a second run would not give this receipt.
            say(f"{target}: {error.strerror}. The receipt goes to standard output.")
            typer.echo(signed(result), nl=False)
    verb = "would be erased" if dry_run else "erased"
    say(f"{tenant}: {_words(result.counts) or 'nothing'} {verb}.")
    if result.left:
        fail(f"Left, because it was added meanwhile: {_words(result.left)}. Run this command again.", REFUSED)


async def _export(settings: BackendSettings, tenant: str, target: Path) -> Receipt:
    async with _opened(settings) as (servers, stores):
        data = TenantData(servers, tenant)
        found = await data.find()
        with written(target) as out:
            return await tenant_archive.write(out, data, found, stores.blobs, SystemClock())


async def _erase(settings: BackendSettings, tenant: str, *, cancel: bool, dry_run: bool) -> Receipt:
    clock = SystemClock()
    async with _opened(settings) as (servers, stores):
        data = TenantData(servers, tenant)
        if dry_run:
            found, begun_at = await data.find(), clock.now()
            erased = Erased(begun_at, _some(found), 0, {})
        else:
            erased = await erase(data, stores, clock, settings.job_retention_s, say, cancel=cancel)
    return Receipt(
        receipt="erase",
        tenant=tenant,
        begun_at=stamp(erased.begun_at),
        ended_at=stamp(clock.now()),
        dry_run=dry_run,
        complete=not erased.left and not dry_run,
        counts=erased.counts,
        shared_pictures=erased.shared_pictures,
        left=erased.left,
        remains=list(
            remains(
                settings,
                tenant,
                clock.now(),
                canceled=bool(erased.counts.get("canceled_jobs")),
                indexed=bool(erased.counts.get("picture_records")),
            )
        ),
    )


def remains(
    settings: BackendSettings, tenant: str, now: float, *, canceled: bool, indexed: bool = False
) -> list[str]:
    """Returns what an erasure at `now` (Unix seconds) does not erase, in words.

    `canceled`: it canceled jobs. `indexed`: it erased records that the search index may have.
    """
    until = stamp(now + settings.blob_retention_s)
    lines = [
        f"Pictures that no record names any more, such as those of expired jobs: until {until} at the latest.",
        "Backups, logs, traces and metrics that were taken before: as long as you keep them.",
    ]
    if canceled:
        lines.append("Messages of canceled jobs on the broker: until a worker takes them. They are not run.")
    if indexed:
        lines.append(
            f"Images in the search index, and their names in the store: until the index has forgotten them, {until} at the latest."
        )
    if settings.blob_s3_bucket is not None:
        lines.append(f"Earlier versions of pictures, if the bucket {settings.blob_s3_bucket} keeps any.")
    if tenant in RESERVED_TENANTS:
        lines.append(
            f"The tenant {tenant} itself: no API key in the store belongs to it, so none was revoked, and new jobs may come."
        )
    return lines


@asynccontextmanager
async def _opened(settings: BackendSettings) -> AsyncIterator[tuple[Servers, Stores]]:
    """Yields the Redis servers and the stores, and closes them. Raises `LayoutMismatch`."""
    timeout_s = settings.redis_timeout_s
    stores = open_stores(settings)
    state = connect(settings.redis_url, timeout_s)
    cached = state if settings.cache_redis_url is None else connect(settings.cache_redis_url, timeout_s)
    try:
        # With the wrong number of shards, only a part of the data would be found.
        await LayoutGuard(state, settings.shards, timeout_s).check()
        yield Servers(state, cached, timeout_s, Layout(settings.shards)), stores
    finally:
        await stores.close()
        for client in {id(state): state, id(cached): cached}.values():
            await disconnect(client)


def _some(found: Found) -> dict[str, int]:
    return {kind: count for kind, count in found.counts().items() if count}


def _words(counts: dict[str, int]) -> str:
    """`3 jobs, 2 pictures`."""
    return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in counts.items())
