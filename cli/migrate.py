"""`darkroom migrate`: moves the jobs in Redis to the number of shards in the settings."""

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

OnProgress = Callable[[int, int], None]
"""Called with the number of keys checked since the last call, and the number of all keys."""


def migrate(
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Migrate even if a process seems to run. If one does run, jobs are lost."
        ),
    ] = False,
    folder: Folder = record.FOLDER,
) -> None:
    """Move the jobs in Redis to as many shards as DARKROOM_STORE_SHARDS says. API, workers and webhooks must not run.

    To resume an interrupted migration, run the command again. No process starts until the migration is complete.

    Example: DARKROOM_STORE_SHARDS=1 darkroom migrate
    """
    with one_line_errors(), bar() as progress:
        settings = settings_of(folder)
        task = progress.add_task("Moving", total=None)
        result = asyncio.run(
            migrated(
                settings, lambda count, total: progress.update(task, advance=count, total=total), force=force
            )
        )
        if result is None:
            say(f"There is nothing to move: {SETTING} is still {settings.shards}.")
            return
        migration, balance = result
        if not balance.balanced:
            fail("The counts of jobs do not balance: run `darkroom audit --full`.", REFUSED)
        say(
            f"{balance.recorded} jobs recorded, {balance.live} of them live: moved from {migration.before} to"
            f" {migration.shards} shards. Start the platform now."
        )


async def migrated(
    settings: BackendSettings, on_progress: OnProgress = lambda _, __: None, *, force: bool = False
) -> tuple[Migration, Audit] | None:
    """Moves the jobs to the layout of the settings.

    Returns the migration and the counts after it; None: nothing had to move. With `force` it also
    runs while a process seems to run. `on_progress` is called during the move. Raises
    `MigrationRefused`, `LayoutMismatch`, `StoreUnavailable`.
    """
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
        await move(client, migration, timeout_s, lambda count: on_progress(count, total))
        await end(client, migration, timeout_s)
        return migration, await counts(client, timeout_s)
    finally:
        await disconnect(client)
