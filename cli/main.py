"""`darkroom`: the command line."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cli import keys, measuring
from cli.client import ApiError, Client
from cli.devices import WorkerGroup, environments
from cli.operations import books, doctor
from cli.platform import Platform, started
from cli.services.process import ServiceError

CHECK_S: Final = 1.0
FIRST_PROMPT: Final = "a red apple on a blue background"

app = typer.Typer(help="Darkroom: a platform that serves diffusion models.", no_args_is_help=True)
app.command()(doctor)
app.command("audit")(books)
measuring.register(app)
app.add_typer(keys.app, name="keys")

Out = Annotated[Path, typer.Option("--out", "-o", help="Where the picture goes.")]


@app.command()
def up(
    prompt: Annotated[str, typer.Option(help="Make this picture first; empty: none.")] = FIRST_PROMPT,
    out: Out = Path("picture.png"),
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    folder: Annotated[Path, typer.Option(help="Data and logs.")] = Path(".cache/platform"),
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
        with started(folder, workers) as platform:
            typer.echo("Starting the platform ...")
            platform.wait_ready()
            typer.echo(f"Ready in {time.monotonic() - begun:.1f} s.")
            if prompt:
                _picture(platform.url, {"prompt": prompt}, out, platform.key)
            if once:
                return
            typer.echo(f"\nServing at {platform.url}  (logs in {folder}; Ctrl-C ends it)")
            _watch(platform)
    except (ServiceError, ApiError) as error:
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


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture should show.")],
    out: Out = Path("picture.png"),
    url: Annotated[str, typer.Option(help="The server.", envvar="DARKROOM_URL")] = "http://127.0.0.1:8000",
    key: Annotated[
        str, typer.Option(help="The API key, if the server needs one.", envvar="DARKROOM_API_KEY")
    ] = "",
    seed: Annotated[str, typer.Option(help="A number, or random; by default decided by the prompt.")] = "",
    model: Annotated[str, typer.Option(help="By default the server's own.")] = "",
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
) -> None:
    """Make one picture on a running server."""
    request: dict[str, Any] = {
        "prompt": prompt,
        "model": model or None,
        "seed": int(seed) if seed.isdigit() else seed or None,
        "num_inference_steps": steps,
        "width": width,
        "height": height,
    }
    try:
        _picture(url, request, out, key)
    except ApiError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _picture(url: str, request: dict[str, Any], out: Path, key: str) -> None:
    begun = time.monotonic()
    client = Client(url, key)
    try:
        job = client.generate(request)
        took_ms = (time.monotonic() - begun) * 1000
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(client.picture(job["images"][0]["url"]))
    finally:
        client.close()
    how = "from the cache" if job["cache"] == "hit" else "drawn"
    seed = job["images"][0]["seed"]
    typer.echo(f'"{request["prompt"]}", seed {seed}, {how} in {took_ms:.0f} ms: {out.absolute()}')
    for warning in job["warnings"]:
        typer.echo(f"Note: {warning}", err=True)


def _watch(platform: Platform) -> None:
    while True:
        time.sleep(CHECK_S)
        platform.check()


if __name__ == "__main__":
    app()
