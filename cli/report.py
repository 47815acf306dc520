"""Messages of `darkroom backup`, `restore`, `migrate` and `tenant`: a progress bar, and one line for each fact or error.

All of them go to standard error, because standard output may be the archive.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import httpx
import typer
from rich.console import Console
from rich.progress import Progress

from cli.archive import ArchiveRefused, Manifest
from contracts import exit_codes
from contracts.errors import SettingsError, StoreUnavailable
from store.migrating import MigrationRefused
from store.packed import RdbError
from store.snapshot import SnapshotRefused

REFUSED: Final = exit_codes.FAILED
"""Exit code: the archive or its target does not allow the command."""
AWAY: Final = exit_codes.UNUSABLE
"""Exit code: a service does not answer, or a setting is wrong."""


def bar() -> Progress:
    """Returns a progress bar, which is hidden without a terminal, and disappears at its end."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def say(line: str) -> None:
    """Prints a line to standard error."""
    typer.echo(line, err=True)


def fail(message: str, code: int) -> NoReturn:
    """Prints a message to standard error, and ends the command with `code`. Raises `typer.Exit`."""
    say(message)
    raise typer.Exit(code)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns expected errors of the block into one line and an exit code. Raises `typer.Exit`."""
    try:
        yield
    except (ArchiveRefused, MigrationRefused, SnapshotRefused, RdbError) as error:
        fail(str(error), REFUSED)
    except OSError as error:
        fail(f"{error.filename or 'The archive'}: {os.strerror(error.errno or 0)}.", REFUSED)
    except StoreUnavailable as error:
        fail(error.message, AWAY)
    except SettingsError as error:
        fail(f"darkroom: {error}", AWAY)
    except httpx.HTTPError as error:
        fail(f"RabbitMQ's management API did not answer: {type(error).__name__}.", AWAY)


def contents(manifest: Manifest) -> str:
    """Returns the contents in words: `2569 keys, 312 pictures (14.2 MiB)`."""
    return f"{manifest.keys} keys, {len(manifest.pictures)} pictures ({mebibytes(manifest.picture_bytes)})"


def mebibytes(count: int) -> str:
    """Returns a number of bytes as `14.2 MiB`."""
    return f"{count / 2**20:.1f} MiB"
