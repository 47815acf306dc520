"""`darkroom generate`: a picture from a running server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from cli.follow import follow
from client import Client, ClientError, Job, JobFailed

Out = Annotated[Path, typer.Option("--out", "-o", help="Where the picture goes; of several, numbered.")]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        "--url",
        help="The server; by default http://127.0.0.1:8000.",
        envvar=["DARKROOM_SERVER", "DARKROOM_URL"],
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", "--key", help="If the server needs one.", envvar="DARKROOM_API_KEY"),
]

BAR: Final = (TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn())


def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture should show.")],
    out: Out = Path("picture.png"),
    server: Server = None,
    api_key: ApiKey = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="Pictures, from consecutive seeds.")] = None,
    seed: Annotated[str, typer.Option(help="A number, or random; by default decided by the prompt.")] = "",
    model: Annotated[str | None, typer.Option(help="By default the server's own.")] = None,
    negative: Annotated[str | None, typer.Option(help="What the picture should not show.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="A line for every change, instead of a bar.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 300.0,
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
    with Client(server, api_key=api_key) as client:
        try:
            make(client, prompt, out, watch=watch, timeout_s=timeout, **fields)
        except ClientError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from None


def make(
    client: Client, prompt: str, out: Path, *, watch: bool = False, timeout_s: float = 300.0, **fields: Any
) -> None:
    """Submits, shows how it goes on, and saves the pictures. Raises `ClientError`."""
    begun = time.monotonic()
    job = client.submit(prompt, **fields)
    if not job.ended:
        _show(client, job, watch=watch)
        job = client.wait(job, timeout_s)
    if job.status != "succeeded":
        raise JobFailed(job)
    took_ms = (time.monotonic() - begun) * 1000
    files = save(client, job, out)
    how = "from the cache" if job.cache == "hit" else "drawn"
    for image, file in zip(job.images, files, strict=True):
        typer.echo(f'"{prompt}", seed {image.seed}, {how} in {took_ms:.0f} ms: {file.absolute()}')
    for warning in job.warnings:
        typer.echo(f"Note: {warning}", err=True)


def save(client: Client, job: Job, out: Path) -> list[Path]:
    """The job's pictures as `out`, or as `out-1` and so on where there are several."""
    out.parent.mkdir(parents=True, exist_ok=True)
    many = len(job.images) > 1
    files = [
        out.with_stem(f"{out.stem}-{number}") if many else out for number in range(1, len(job.images) + 1)
    ]
    for image, file in zip(job.images, files, strict=True):
        file.write_bytes(client.image(image))
    return files


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
    try:
        return int(text) if text else None
    except ValueError:
        raise typer.BadParameter("A seed is a number, or random.") from None
