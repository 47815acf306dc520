"""`darkroom migrate`: moves the jobs of a state Redis to the number of shards that the settings name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer

from backends.redis_client import connect, disconnect
from cli import record
from cli.operations import Folder, settings_of
from cli.report import REFUSED, bar, fail, one_line_errors, say
from contracts.settings import BackendSettings
from store.audit import Audit, counts
from store.layout import SETTING
from store.migrating import Migration, MigrationRefused, begun, end, move, survey
from store.restoring import in_use

Told = Callable[[int, int], None]
"""Hears how many keys were looked at just now, and how many there are."""


def migrate(
    force: Annotated[
        bool,
        typer.Option("--force", help="Although a process seems to live. It would lose jobs."),
    ] = False,
    folder: Folder = record.FOLDER,
) -> None:
    """Move the jobs in Redis to as many shards as DARKROOM_STORE_SHARDS says. API, workers and webhooks must not run.

    A migration that breaks off is taken up by starting it again. Nothing starts before it has ended.

    Example: DARKROOM_STORE_SHARDS=1 darkroom migrate
    """
    with one_line_errors(), bar() as progress:
        settings = settings_of(folder)
        task = progress.add_task("Moving", total=None)
        done = asyncio.run(
            migrated(
                settings, lambda count, total: progress.update(task, advance=count, total=total), force=force
            )
        )
        if done is None:
            say(f"There is nothing to move: {SETTING} is {settings.shards}, as it was.")
            return
        migration, balance = done
        if not balance.balanced:
            fail("The counts of jobs do not balance: run `darkroom audit --full`.", REFUSED)
        say(
            f"{balance.recorded} jobs recorded, {balance.live} of them live: moved from {migration.before} to"
            f" {migration.shards} shards. Start the platform now."
        )


async def migrated(
    settings: BackendSettings, told: Told = lambda _, __: None, *, force: bool = False
) -> tuple[Migration, Audit] | None:
    """What was moved to the layout of the settings, and what the counters say then; None: nothing had to be. With `force` also
    where a process seems to live. Raises `MigrationRefused`, `LayoutMismatch`, `StoreUnavailable`."""
    timeout_s = settings.redis_timeout_s
    client = connect(settings.redis_url, timeout_s)
    try:
        if not force and await in_use(client, timeout_s):
            raise MigrationRefused(
                "A platform runs on this Redis: stop API, workers and webhooks, and wait 10 s."
            )
        total = await survey(client, timeout_s)
        migration = await begun(client, settings.shards, timeout_s)
        if migration is None:
            return None
        await move(client, migration, timeout_s, lambda count: told(count, total))
        await end(client, migration, timeout_s)
        return migration, await counts(client, timeout_s)
    finally:
        await disconnect(client)
