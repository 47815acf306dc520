"""`darkroom doctor` and `darkroom audit`: the commands for operators.

They read the settings of the services from the environment. Without such settings they use the
platform that `darkroom up` has started in this folder.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from backends.redis_client import connect, disconnect
from cli import record
from cli.doctor import examine
from cli.findings import Grade
from contracts import exit_codes
from contracts.errors import SettingsError, StoreUnavailable
from contracts.settings import BackendSettings
from store.audit import Audit, audit, counts

_MARKS = {Grade.OK: "ok     ", Grade.WARNING: "warning", Grade.FAULT: "FAULT  "}

Folder = Annotated[
    Path,
    typer.Option(
        help="The folder of the embedded platform; unused if DARKROOM_REDIS_URL or DARKROOM_BROKER_URL is set."
    ),
]


def doctor(folder: Folder = record.FOLDER) -> None:
    """Check broker, Redis, queues, disk, models, clocks and versions; say what is wrong and what to do.

    Exit code 1: there is a fault.

    Example: darkroom doctor
    """
    settings = settings_of(folder)
    raise typer.Exit(exit_codes.FAILED if asyncio.run(_doctor(settings)) else exit_codes.ENDED)


def audit_jobs(
    full: Annotated[
        bool, typer.Option("--full", help="Read every job record, not only the counters.")
    ] = False,
    folder: Folder = record.FOLDER,
) -> None:
    """Compare the counts of accepted, ended and live jobs, and list any difference. Exit code 1: there is one.

    Example: darkroom audit --full
    """
    settings = settings_of(folder)
    try:
        result = asyncio.run(_audit(settings, full))
    except StoreUnavailable as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(exit_codes.UNUSABLE) from None
    ended = ", ".join(f"{count} {status}" for status, count in result.ended.items() if count)
    typer.echo(f"{result.recorded} recorded = {ended or '0 ended'} + {result.live} live")
    if not result.balanced and not result.differences:
        typer.echo("The counts do not balance: run `darkroom audit --full`.", err=True)
    for difference in result.differences:
        typer.echo(difference, err=True)
    balanced = result.balanced and not result.differences
    raise typer.Exit(exit_codes.ENDED if balanced else exit_codes.FAILED)


async def _doctor(settings: BackendSettings) -> int:
    faults = 0
    async for finding in examine(settings):
        typer.echo(f"{_MARKS[finding.grade]}  {finding.what}")
        if finding.mend:
            typer.echo(f"         -> {finding.mend}")
        faults += finding.grade is Grade.FAULT
    return faults


async def _audit(settings: BackendSettings, full: bool) -> Audit:
    client = connect(settings.redis_url, settings.redis_timeout_s)
    try:
        return await (audit if full else counts)(client, settings.redis_timeout_s)
    finally:
        await disconnect(client)


def settings_of(folder: Path) -> BackendSettings:
    """Returns the settings of the platform that runs in `folder`, else of the environment.

    Ends the command with 2 if they are wrong.
    """
    running, environ = record.environment(folder, os.environ)
    try:
        settings = BackendSettings.from_env(environ)
    except SettingsError as error:
        typer.echo(f"darkroom: {error}", err=True)
        raise typer.Exit(exit_codes.UNUSABLE) from None
    if running is not None:
        typer.echo(f"The platform in {folder}, at {running.url}:", err=True)
    return settings
