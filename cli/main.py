"""`darkroom`: the command line."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from cli import jobs, keys, measuring, record, tenant
from cli.backup import backup
from cli.children import Unusable
from cli.devices import WorkerGroup, environments
from cli.generate import generate, make
from cli.migrate import migrate
from cli.operations import audit_jobs, doctor
from cli.output import Out, Output
from cli.platform import Platform, started
from cli.restore import restore
from cli.services.process import ServiceError
from client import Client, ClientError
from contracts import exit_codes
from contracts.errors import SettingsError

CHECK_S: Final = 1.0
MAX_WORKERS: Final = 256
FIRST_PROMPT: Final = "a red apple on a blue background"


class TextOnly(TyperGroup):
    """Refuses arguments that are no text, once for all commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for each in args:
            if any("\ud800" <= letter <= "\udfff" for letter in each):
                raise typer.BadParameter(f"{each!r} is no UTF-8.")
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=TextOnly, help="Darkroom: a platform that serves diffusion models.", no_args_is_help=True
)
app.command()(doctor)
app.command("audit")(audit_jobs)
app.command()(backup)
app.command()(restore)
app.command()(migrate)
app.command()(generate)
app.add_typer(jobs.app, name="jobs")
measuring.register(app)
app.add_typer(keys.app, name="keys")
app.add_typer(tenant.app, name="tenant")


@app.command()
def up(
    prompt: Annotated[str, typer.Option(help="Make this picture first; empty: none.")] = FIRST_PROMPT,
    out: Out = "picture.png",
    workers: Annotated[int, typer.Option(min=1, max=MAX_WORKERS, help="Worker processes.")] = 1,
    folder: Annotated[Path, typer.Option(help="Data and logs.")] = record.FOLDER,
    webhooks: Annotated[bool, typer.Option(help="A process that delivers webhooks.")] = True,
    once: Annotated[bool, typer.Option("--once", help="End after the picture.")] = False,
) -> None:
    """Start the embedded platform, make a picture, and serve until Ctrl-C.

    DARKROOM_REDIS_URL and DARKROOM_BROKER_URL point it at servers of yours; without them it brings its own. Ends with 2 where it cannot
    run as it is set up (a bad setting, a port in use, a model that cannot be loaded), with 1 after another fault.
    """
    # A terminal that closes, and `kill`, end it as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    where = Output.of(out) if prompt else None
    begun = time.monotonic()
    try:
        with started(folder, workers, webhooks=webhooks and not once) as platform:
            _tell("Starting the platform ...")
            platform.wait_ready(_tell)
            _tell(f"Ready in {time.monotonic() - begun:.1f} s.")
            if where is not None:
                with Client(platform.url, api_key=platform.key) as client:
                    make(client, prompt, where)
            if once:
                return
            typer.echo(f"\nServing at {platform.url}  (logs in {folder}; Ctrl-C ends it)")
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
        str, typer.Option(help="One worker for each: all GPUs, a list like 0,1, or cpu:N.")
    ] = "all",
) -> None:
    """Start one worker per device of this machine, and keep them running. Set up by DARKROOM_ variables, as each worker is.

    A worker that cannot run as it is set up is not started again; where none is left, this ends with 2.
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
        platform.check(_tell)


def _tell(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    app()
