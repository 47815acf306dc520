"""`darkroom generate`: makes images on a running server."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from cli.follow import follow
from cli.options import ApiKey, Server, at_least_zero, positive
from cli.output import Out, Output
from client import Client, ClientError, Job, JobFailed

SEED_DIGITS: Final = 20
BAR: Final = (TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn())


def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture should show.")],
    out: Out = "picture.png",
    server: Server = None,
    api_key: ApiKey = None,
    n: Annotated[
        int | None, typer.Option("--n", "-n", min=1, help="Pictures, from consecutive seeds.")
    ] = None,
    seed: Annotated[
        str, typer.Option(help="A number, or random; by default the server derives it from the prompt.")
    ] = "",
    model: Annotated[
        str | None, typer.Option(help="The model; by default the server's default model.")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What the picture should not show.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(callback=at_least_zero, help="Guidance scale.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Print a line for every change, instead of a bar.")
    ] = False,
    timeout: Annotated[float, typer.Option(callback=positive, help="Seconds to wait.")] = 300.0,
) -> None:
    """Make pictures on a running server."""
    fields = {
        "model": model,
        "negative_prompt": negative,
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "seed": _seed(seed),
        "num_images": n,
    }
    where = Output.of(out, n or 1)
    with Client(server, api_key=api_key) as client:
        try:
            make(client, prompt, where, watch=watch, timeout_s=timeout, **fields)
        except ClientError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from None


def make(
    client: Client, prompt: str, out: Output, *, watch: bool = False, timeout_s: float = 300.0, **fields: Any
) -> None:
    """Submits a job, shows its progress, and saves its images.

    `fields` are fields of the request; `watch` prints a line for every change instead of a bar.
    Raises `ClientError`.
    """
    begun = time.monotonic()
    job = client.submit(prompt, **fields, output_format=out.format)
    if not job.ended:
        _show(client, job, watch=watch)
        job = client.wait(job, timeout_s)
    if job.status != "succeeded":
        raise JobFailed(job)
    duration_ms = (time.monotonic() - begun) * 1000
    paths = out.save(client, job)
    source = "from the cache" if job.cache == "hit" else "drawn"
    for image, path in zip(job.images, paths, strict=True):
        # An image on standard output must stand alone there.
        typer.echo(
            f'"{prompt}", seed {image.seed}, {source} in {duration_ms:.0f} ms: {path}', err=out.path is None
        )
    for warning in job.warnings:
        typer.echo(f"Note: {warning}", err=True)


def _show(client: Client, job: Job, *, watch: bool) -> None:
    console = Console(stderr=True)
    if watch:
        for progress in follow(client, job):
            typer.echo(f"{job.id}: {progress}", err=True)
    elif console.is_terminal:
        with Bar(*BAR, console=console, transient=True) as bar:
            task = bar.add_task("queued", total=None)
            for progress in follow(client, job):
                bar.update(
                    task, description=str(progress), completed=progress.step or 0, total=progress.steps
                )


def _seed(text: str) -> int | Literal["random"] | None:
    if text == "random":
        return "random"
    if text and not (text.isascii() and text.isdigit() and len(text) <= SEED_DIGITS):
        raise typer.BadParameter(
            f"{text!r} is not a seed: give a whole number, or random.", param_hint="--seed"
        )
    return int(text) if text else None
