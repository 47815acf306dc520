"""`darkroom jobs`: lists, shows and cancels jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

import typer

from cli.options import ApiKey, Server, identifier
from client import Client, ClientError, Job

app = typer.Typer(help="Jobs: list, show, cancel.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="The id, job_...", callback=identifier)]


@app.command("list")
def list_jobs(
    server: Server = None,
    api_key: ApiKey = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most this many.")] = 20,
    after: Annotated[
        str | None, typer.Option(help="Only jobs older than this one.", callback=identifier)
    ] = None,
) -> None:
    """List your jobs, newest first."""
    with _client(server, api_key) as client:
        page = client.jobs(limit=limit, after=after)
    for job in page.data:
        typer.echo(_line(job))
    if page.next_cursor:
        typer.echo(f"More: --after {page.next_cursor}", err=True)


@app.command()
def show(job_id: JobId, server: Server = None, api_key: ApiKey = None) -> None:
    """Show the record of a job, as JSON."""
    with _client(server, api_key) as client:
        typer.echo(client.job(job_id).model_dump_json(indent=2))


@app.command()
def cancel(job_id: JobId, server: Server = None, api_key: ApiKey = None) -> None:
    """Cancel a job. A job that has ended stays as it is."""
    with _client(server, api_key) as client:
        typer.echo(_line(client.cancel(job_id)))


@contextmanager
def _client(server: str | None, api_key: str | None) -> Iterator[Client]:
    with Client(server, api_key=api_key) as client:
        try:
            yield client
        except ClientError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from None


def _line(job: Job) -> str:
    created = datetime.fromtimestamp(job.created_at).astimezone().isoformat(" ", "seconds")
    prompt = str(job.request.get("prompt", ""))
    return f"{job.id}  {created}  {job.status:9}  {job.cache:6}  {prompt[:60]}"
