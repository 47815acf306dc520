"""`darkroom generate`: makes images on a running server."""

from __future__ import annotations

import base64
import json
import re
import time
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from cli.follow import follow
from cli.options import ApiKey, Json, Priority, Server, at_least_zero, positive
from cli.output import Format, Out, Output
from cli.server import connected
from client import Client, ClientError, ImageWithheld, Job, JobFailed, StillRunning
from client.protocol import RETRIES

SEED_DIGITS: Final = 20
BAR: Final = (TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn())
MAX_INIT_IMAGE_BYTES: Final = 64 * 2**20
"""More than any server takes. The server's own limit is lower."""
_LORA: Final = re.compile(r"(?P<name>[^=]+)(?:=(?P<scale>\d+(?:\.\d+)?))?", re.ASCII)

DRAWING: Final = "What to draw"
DELIVERY: Final = "How to deliver it"


def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture should show.")],
    out: Out = None,
    server: Server = None,
    api_key: ApiKey = None,
    n: Annotated[
        int | None,
        typer.Option("--n", "-n", min=1, help="Pictures, from consecutive seeds.", rich_help_panel=DRAWING),
    ] = None,
    seed: Annotated[
        str,
        typer.Option(
            help="A number, or random; by default the server derives it from the prompt.",
            rich_help_panel=DRAWING,
        ),
    ] = "",
    model: Annotated[
        str | None,
        typer.Option(help="The model; by default the server's default model.", rich_help_panel=DRAWING),
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help="What the picture should not show.", rich_help_panel=DRAWING)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps.", rich_help_panel=DRAWING)
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(callback=at_least_zero, help="Guidance scale.", rich_help_panel=DRAWING)
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels.", rich_help_panel=DRAWING)] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels.", rich_help_panel=DRAWING)] = None,
    init_image: Annotated[
        Path | None,
        typer.Option(
            help="A picture to start from: PNG, JPEG or WebP.",
            exists=True,
            dir_okay=False,
            readable=True,
            rich_help_panel=DRAWING,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            callback=positive,
            help="How far the result may be from --init-image: above 0, at most 1.",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    lora: Annotated[
        str | None,
        typer.Option(
            help="An adapter of the model, as NAME or NAME=SCALE; `darkroom models` lists them.",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    image_format: Annotated[
        Format | None,
        typer.Option("--format", help="The format, if the file's suffix does not say it."),
    ] = None,
    priority: Annotated[
        Priority | None,
        typer.Option(help="batch yields to interactive jobs.", rich_help_panel=DELIVERY),
    ] = None,
    cache: Annotated[
        Literal["use", "refresh", "off", "similar"] | None,
        typer.Option(
            help="refresh: draw again, and cache the result; off: do not use the cache; similar: take the image of a "
            "prompt that means the same, if there is one.",
            rich_help_panel=DELIVERY,
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            callback=positive,
            help="Seconds to wait. The job goes on after that.",
            rich_help_panel=DELIVERY,
        ),
    ] = 300.0,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Print a line for every change, instead of a bar.", rich_help_panel=DELIVERY
        ),
    ] = False,
    as_json: Json = False,
    show: Annotated[bool, typer.Option("--open", help="Open the pictures in the desktop's viewer.")] = False,
) -> None:
    """Make pictures on a running server.

    Example: darkroom generate "a rocket on a yellow background" -o rocket.png

    Example: darkroom generate "a snowman" -n 4 --seed random --format webp --json
    """
    if out == "-" and (as_json or show):
        raise typer.BadParameter(
            "Standard output takes only the picture: name a file for --json and --open.", param_hint="--out"
        )
    if strength is not None and strength > 1:
        raise typer.BadParameter(f"{strength:g} is above 1.", param_hint="--strength")
    if strength is not None and init_image is None:
        raise typer.BadParameter("It needs --init-image.", param_hint="--strength")
    fields = {
        "model": model,
        "negative_prompt": negative,
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "seed": _seed(seed),
        "num_images": n,
        "init_image": None if init_image is None else _base64(init_image),
        "strength": strength,
        "lora": None if lora is None else _lora(lora),
        "priority": priority,
        "cache": cache,
    }
    where = Output.of(out, n or 1, image_format)
    with connected(server, api_key, retries=RETRIES) as client:
        job, files = make(client, prompt, where, watch=watch, timeout_s=timeout, quiet=as_json, **fields)
    if as_json:
        saved = [
            None if image.url is None else str(file) for image, file in zip(job.images, files, strict=True)
        ]
        record = {**job.model_dump(mode="json"), "files": saved}
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
    for file in filter(None, files) if show else []:
        if typer.launch(str(file)):
            typer.echo(f"No program here opens {file}.", err=True)


def make(
    client: Client,
    prompt: str,
    out: Output,
    *,
    watch: bool = False,
    timeout_s: float = 300.0,
    quiet: bool = False,
    **fields: Any,
) -> tuple[Job, list[Path | None]]:
    """Submits a job, shows its progress, and saves its images. Returns the job and the files.

    `fields` are fields of the request; `watch` prints a line for every change instead of a bar;
    `quiet` leaves out the line for each image. Raises `ClientError`.
    """
    begun = time.monotonic()
    job = client.submit(prompt, **fields, output_format=out.format)
    try:
        if not job.ended and _show(client, job, begun + timeout_s - time.monotonic(), watch=watch):
            job = client.job(job.id)
        job = client.wait(job, begun + timeout_s - time.monotonic())
    except StillRunning:
        raise ClientError(
            f"Job {job.id} has not ended within {timeout_s:g} s, and goes on: `darkroom jobs show {job.id}`."
        ) from None
    if job.status != "succeeded":
        raise JobFailed(job)
    duration_ms = (time.monotonic() - begun) * 1000
    files = out.save(client, job)
    how = f"{_origin(job)} in {duration_ms:.0f} ms"
    for image, file in zip(job.images, files, strict=True) if not quiet else ():
        if image.url is None:
            typer.echo(f'"{prompt}", seed {image.seed}: {ImageWithheld(image.verdict)}', err=True)
            continue
        # An image on standard output must stand alone there.
        typer.echo(f'"{prompt}", seed {image.seed}, {how}: {file or "standard output"}', err=file is None)
    for warning in job.warnings:
        typer.echo(f"Note: {warning}", err=True)
    return job, files


def _origin(job: Job) -> str:
    if job.similar is not None:
        return f'from the cache as "{job.similar.prompt}" ({job.similar.score:.3f})'
    return "from the cache" if job.cache == "hit" else "drawn"


def _show(client: Client, job: Job, timeout_s: float, *, watch: bool) -> bool:
    """Shows the progress of a job until it has ended. Returns False if there is nobody to show it to.

    Raises `StillRunning` after `timeout_s` seconds, and other errors of the client.
    """
    console = Console(stderr=True)
    if watch:
        for progress in follow(client, job, timeout_s):
            typer.echo(f"{job.id}: {progress}", err=True)
    elif console.is_terminal:
        with Bar(*BAR, console=console, transient=True) as bar:
            task = bar.add_task("queued", total=None)
            for progress in follow(client, job, timeout_s):
                bar.update(
                    task, description=str(progress), completed=progress.step or 0, total=progress.steps
                )
    return watch or console.is_terminal


def _base64(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_INIT_IMAGE_BYTES + 1)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}.", param_hint="--init-image") from None
    if len(data) > MAX_INIT_IMAGE_BYTES:
        raise typer.BadParameter(f"{path} is larger than 64 MiB.", param_hint="--init-image")
    return base64.b64encode(data).decode()


def _lora(text: str) -> dict[str, Any]:
    if (match := _LORA.fullmatch(text)) is None:
        raise typer.BadParameter(
            f"{text!r} is not NAME or NAME=SCALE, such as pixel=0.8.", param_hint="--lora"
        )
    scale = match["scale"]
    return {"name": match["name"]} | ({} if scale is None else {"scale": float(scale)})


def _seed(text: str) -> int | Literal["random"] | None:
    if text == "random":
        return "random"
    if text and not (text.isascii() and text.isdigit() and len(text) <= SEED_DIGITS):
        raise typer.BadParameter(
            f"{text!r} is not a seed: give a whole number, or random.", param_hint="--seed"
        )
    return int(text) if text else None
