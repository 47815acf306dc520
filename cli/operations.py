"""`darkroom doctor` and `darkroom audit`: for those who operate the platform. Both read the services' settings."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from cache.audit import Audit, audit, counts
from cache.connection import connect, disconnect
from cli.doctor import Grade, examine
from contracts.errors import SettingsError, StoreUnavailable
from contracts.settings import BackendSettings

_MARKS = {Grade.OK: "ok     ", Grade.WARNING: "warning", Grade.FAULT: "FAULT  "}


def doctor() -> None:
    """Check broker, Redis, queues, disk, models, clocks and versions; say what is wrong and how to mend it.

    Ends with 1 if there is a fault.
    """
    settings = _settings()
    raise typer.Exit(1 if asyncio.run(_doctor(settings)) else 0)


def books(
    full: Annotated[
        bool, typer.Option("--full", help="Read every job record, not the counters alone.")
    ] = False,
) -> None:
    """Recount accepted jobs against ended ones, and list any difference. Ends with 1 if there is one."""
    settings = _settings()
    try:
        found = asyncio.run(_audit(settings, full))
    except StoreUnavailable as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(2) from None
    ended = ", ".join(f"{count} {status}" for status, count in found.ended.items() if count)
    typer.echo(f"{found.recorded} recorded = {ended or '0 ended'} + {found.live} live")
    if not found.balanced and not found.differences:
        typer.echo("They do not balance: run `darkroom audit --full`.", err=True)
    for difference in found.differences:
        typer.echo(difference, err=True)
    raise typer.Exit(0 if found.balanced and not found.differences else 1)


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


def _settings() -> BackendSettings:
    try:
        return BackendSettings.from_env()
    except SettingsError as error:
        typer.echo(f"darkroom: {error}", err=True)
        raise typer.Exit(2) from None
