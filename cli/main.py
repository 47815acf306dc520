"""`darkroom`: the command line."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from cli import cache, jobs, keys, measuring, moderation, record, tenant, webhooks
from cli import search as search_commands
from cli.backup import backup
from cli.children import Unusable
from cli.devices import WorkerGroup, environments
from cli.generate import generate, make
from cli.group import Commands
from cli.migrate import migrate
from cli.models import models
from cli.operations import audit_jobs, doctor
from cli.output import Out, Output
from cli.platform import Platform, started
from cli.restore import restore
from cli.services.process import ServiceError
from cli.verify import verify
from cli.version import print_and_end, version
from client import Client, ClientError
from contracts import exit_codes
from contracts.errors import SettingsError

CHECK_S: Final = 1.0
MAX_WORKERS: Final = 256
FIRST_PROMPT: Final = "a red apple on a blue background"


app = typer.Typer(
    cls=Commands,
    help="Darkroom: a platform that serves diffusion models.\n\n"
    'Example: darkroom generate "a red apple" -o apple.png\n\n'
    "Exit codes, completion and more examples: docs/command.md",
    no_args_is_help=True,
)


@app.callback()
def darkroom(
    _: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=print_and_end, is_eager=True),
    ] = False,
) -> None:
    """Holds the options of `darkroom` itself."""


app.command()(generate)
app.command()(models)
app.add_typer(search_commands.app, name="search")
app.add_typer(jobs.app, name="jobs")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(keys.app, name="keys")
app.add_typer(cache.app, name="cache")
app.add_typer(moderation.app, name="moderation")
app.command()(doctor)
app.command("audit")(audit_jobs)
app.command()(backup)
app.command()(restore)
app.command()(migrate)
app.add_typer(tenant.app, name="tenant")
measuring.register(app)
app.command()(verify)
app.command()(version)


@app.command()
def up(
    prompt: Annotated[
        str, typer.Option(help="Make a picture of this prompt first; empty: make none.")
    ] = FIRST_PROMPT,
    out: Out = None,
    workers: Annotated[int, typer.Option(min=1, max=MAX_WORKERS, help="Worker processes.")] = 1,
    folder: Annotated[Path, typer.Option(help="The folder for data and logs.")] = record.FOLDER,
    webhooks: Annotated[bool, typer.Option(help="Also start the process that delivers webhooks.")] = True,
    search: Annotated[
        bool,
        typer.Option(
            help="Also start the search, with the gallery at /gallery. Not with --once, nor if DARKROOM_SEARCH_URL names one."
        ),
    ] = True,
    once: Annotated[bool, typer.Option("--once", help="Stop after the first picture.")] = False,
) -> None:
    """Start the embedded platform, make a picture, and serve until Ctrl-C.

    It uses the servers in DARKROOM_REDIS_URL and DARKROOM_BROKER_URL, or starts a Redis if they are not set.
    Exit code 2: it cannot run with its settings (a bad setting, a port in use, a model that cannot be loaded).
    Exit code 1: another fault.

    Example: darkroom up --once -o first.png
    """
    # `kill` and a closed terminal end the platform like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    output = Output.of(out) if prompt else None
    begun = time.monotonic()
    try:
        search = search and not once
        own = search and not os.environ.get("DARKROOM_SEARCH_URL")
        with started(
            folder, workers, webhooks=webhooks and not once, search=own, search_later=True
        ) as platform:
            _print_error("Starting the platform ...")
            platform.wait_ready(_print_error)
            _print_error(f"Ready in {time.monotonic() - begun:.1f} s.")
            if output is not None:
                with Client(platform.url, api_key=platform.key) as client:
                    make(client, prompt, output)
            if once:
                return
            # Not earlier: the first picture would wait for the processor.
            platform.start_search()
            gallery = f"Search your pictures at {platform.url}/gallery\n" if search else ""
            typer.echo(f"\n{gallery}Serving at {platform.url}  (logs in {folder}; press Ctrl-C to stop)")
            _watch(platform)
    except (SettingsError, Unusable) as error:
        typer.echo(f"darkroom up: {error}", err=True)
        raise typer.Exit(exit_codes.UNUSABLE) from None
    except (ServiceError, ClientError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(exit_codes.FAILED) from None
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)


@app.command()
def worker(
    devices: Annotated[
        str, typer.Option(help="One worker per device: all (GPUs), a list like 0,1, or cpu:N.")
    ] = "all",
) -> None:
    """Start one worker per device of this machine, and restart those that die. DARKROOM_ variables configure the workers.

    A worker that cannot run with its settings is not restarted. Exit code 2: no worker is left.

    Example: darkroom worker --devices cpu:2
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        group = WorkerGroup(environments(devices), os.environ)
    except ServiceError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(exit_codes.UNUSABLE) from None
    try:
        group.watch()
    except KeyboardInterrupt:
        group.stop()
    except Unusable as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(exit_codes.UNUSABLE) from None


def _watch(platform: Platform) -> None:
    while True:
        time.sleep(CHECK_S)
        platform.check(_print_error)


def _print_error(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    app(prog_name="darkroom")
