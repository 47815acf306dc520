"""`darkroom`: the command line."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from cli import jobs, keys, measuring
from cli.backup import backup
from cli.devices import WorkerGroup, environments
from cli.generate import Out, generate, make
from cli.operations import books, doctor
from cli.platform import Platform, started
from cli.restore import restore
from cli.services.process import ServiceError
from client import Client, ClientError

CHECK_S: Final = 1.0
FIRST_PROMPT: Final = "a red apple on a blue background"

app = typer.Typer(help="Darkroom: a platform that serves diffusion models.", no_args_is_help=True)
app.command()(doctor)
app.command("audit")(books)
app.command()(backup)
app.command()(restore)
app.command()(generate)
app.add_typer(jobs.app, name="jobs")
measuring.register(app)
app.add_typer(keys.app, name="keys")


@app.command()
def up(
    prompt: Annotated[str, typer.Option(help="Make this picture first; empty: none.")] = FIRST_PROMPT,
    out: Out = Path("picture.png"),
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    folder: Annotated[Path, typer.Option(help="Data and logs.")] = Path(".cache/platform"),
    webhooks: Annotated[bool, typer.Option(help="A process that delivers webhooks.")] = True,
    once: Annotated[bool, typer.Option("--once", help="End after the picture.")] = False,
) -> None:
    """Start the embedded platform, make a picture, and serve until Ctrl-C.

    DARKROOM_REDIS_URL and DARKROOM_BROKER_URL point it at servers of yours; without them it brings its own.
    """
    # A terminal that closes, and `kill`, end it as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    begun = time.monotonic()
    try:
        with started(folder, workers, webhooks=webhooks and not once) as platform:
            typer.echo("Starting the platform ...")
            platform.wait_ready()
            typer.echo(f"Ready in {time.monotonic() - begun:.1f} s.")
            if prompt:
                with Client(platform.url, api_key=platform.key) as client:
                    make(client, prompt, out)
            if once:
                return
            typer.echo(f"\nServing at {platform.url}  (logs in {folder}; Ctrl-C ends it)")
            _watch(platform)
    except (ServiceError, ClientError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("Stopped.")


@app.command()
def worker(
    devices: Annotated[
        str, typer.Option(help="One worker for each: all GPUs, a list like 0,1, or cpu:N.")
    ] = "all",
) -> None:
    """Start one worker per device of this machine, and keep them running. Set up by DARKROOM_ variables, as each worker is."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        group = WorkerGroup(environments(devices), os.environ)
    except ServiceError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    try:
        group.watch()
    except KeyboardInterrupt:
        group.stop()


def _watch(platform: Platform) -> None:
    while True:
        time.sleep(CHECK_S)
        platform.check()


if __name__ == "__main__":
    app()
