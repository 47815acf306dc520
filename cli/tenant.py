"""`darkroom tenant`: the data of one tenant, exported or erased. Both read the settings of the services, as `darkroom backup` does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from backends.redis_client import connect, disconnect
from cli import record, tenant_archive
from cli.operations import Folder, settings_of
from cli.options import writable
from cli.receipt import Receipt, signed, stamp
from cli.report import REFUSED, fail, one_line_errors, say
from cli.target import PIPE, target_of, written
from contracts.clock import SystemClock
from contracts.settings import BackendSettings
from contracts.tenancy import RESERVED_TENANTS, is_tenant
from store.erasing import Erased, TenantBusy, erase
from store.key_names import Layout
from store.layout import LayoutGuard
from store.stores import Stores, open_stores
from store.tenant_data import Found, Servers, TenantData

app = typer.Typer(help="A tenant's data: export, erase.", no_args_is_help=True)


def _tenant(text: str) -> str:
    if not is_tenant(text):
        raise typer.BadParameter(f"{text!r} is no tenant: 1 to 63 of a-z, 0-9, _ and -.")
    return text


Tenant = Annotated[
    str, typer.Argument(help="Whose: as its API keys name it.", show_default=False, callback=_tenant)
]


@app.command("export")
def export_tenant(
    tenant: Tenant,
    out: Annotated[
        Path,
        typer.Argument(
            help="A new file, a folder for one named by tenant and time, or - for standard output.",
            show_default=False,
            callback=writable,
        ),
    ],
    folder: Folder = record.FOLDER,
) -> None:
    """Write all that is kept of a tenant to a tar of JSON and pictures, with a receipt at its end. Changes nothing.

    Example: darkroom tenant export acme acme.tar
    """
    with one_line_errors():
        settings = settings_of(folder)
        target = target_of(out, f"tenant-{tenant}")
        receipt = asyncio.run(_export(settings, tenant, target))
        say(f"{target}: {_words(receipt.counts) or 'nothing is kept of this tenant'}.")


@app.command("erase")
def erase_tenant(
    tenant: Tenant,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the jobs that have not ended.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be erased.")] = False,
    receipt: Annotated[
        Path,
        typer.Option(
            help="Where the receipt goes: a new file, or - for standard output.",
            callback=writable,
        ),
    ] = PIPE,
    folder: Folder = record.FOLDER,
) -> None:
    """Erase all that is kept of a tenant: jobs, pictures, API keys and whatever else, for good. Prints a receipt.

    The platform may run meanwhile. Refuses while the tenant has jobs that have not ended, unless --cancel ends them. One that broke off is
    taken up again by the same command. Ends with 1 where something is left.

    Example: darkroom tenant erase acme --receipt acme.json
    """
    with one_line_errors():
        settings = settings_of(folder)
        target = receipt if receipt == PIPE else target_of(receipt, f"erased-{tenant}", ".json")
        try:
            done = asyncio.run(_erase(settings, tenant, cancel=cancel, dry_run=dry_run))
        except TenantBusy as error:
            fail(f"{error}: wait for them, or give --cancel. Nothing was changed.", REFUSED)
        try:
            with written(target) as out:
                out.write(signed(done).encode())
        except OSError as error:
            # It is done, and there is no second receipt of it.
            say(f"{target}: {error.strerror}. The receipt goes to standard output.")
            typer.echo(signed(done), nl=False)
    verb = "would be erased" if dry_run else "erased"
    say(f"{tenant}: {_words(done.counts) or 'nothing'} {verb}.")
    if done.left:
        fail(f"Left, for it came meanwhile: {_words(done.left)}. Run this command again.", REFUSED)


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
            done = Erased(begun_at, _some(found), 0, {})
        else:
            done = await erase(data, stores, clock, settings.job_retention_s, say, cancel=cancel)
    return Receipt(
        receipt="erase",
        tenant=tenant,
        begun_at=stamp(done.begun_at),
        ended_at=stamp(clock.now()),
        dry_run=dry_run,
        complete=not done.left and not dry_run,
        counts=done.counts,
        shared_pictures=done.shared_pictures,
        left=done.left,
        remains=list(remains(settings, tenant, clock.now(), canceled=bool(done.counts.get("canceled_jobs")))),
    )


def remains(settings: BackendSettings, tenant: str, now: float, *, canceled: bool) -> list[str]:
    """What an erasure does not reach, in words."""
    until = stamp(now + settings.blob_retention_s)
    found = [
        f"Pictures that no record names any more, as of jobs that had lapsed before: until {until} at the latest.",
        "Backups, logs, traces and metrics that were taken before: as long as you keep them.",
    ]
    if canceled:
        found.append(
            "Messages of canceled jobs on the broker: until a worker comes to them. They are not run."
        )
    if settings.blob_s3_bucket is not None:
        found.append(f"Earlier versions of pictures, if the bucket {settings.blob_s3_bucket} keeps any.")
    if tenant in RESERVED_TENANTS:
        found.append(
            f"The tenant {tenant} itself: no API key in the store speaks for it, so none was revoked, and jobs may come again."
        )
    return found


@asynccontextmanager
async def _opened(settings: BackendSettings) -> AsyncIterator[tuple[Servers, Stores]]:
    """The servers, and the stores on them."""
    timeout_s = settings.redis_timeout_s
    stores = open_stores(settings)
    state = connect(settings.redis_url, timeout_s)
    cached = state if settings.cache_redis_url is None else connect(settings.cache_redis_url, timeout_s)
    try:
        # In another layout it would find a part of what there is.
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
