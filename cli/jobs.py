"""`darkroom jobs`: lists, shows and cancels jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

import typer

from cli.group import Commands
from cli.options import ApiKey, JobId, Json, Server, identifier
from cli.server import connected
from cli.tables import print_json, print_table
from client import Client, Job, JobPage

HEADS: Final = ("ID", "CREATED", "STATUS", "CACHE", "PROMPT")
PROMPT_CHARS: Final = 60
PAGE: Final = 100
"""Jobs that one call returns at most."""

app = typer.Typer(
    cls=Commands,
    help="Jobs: list, show, cancel.\n\nExample: darkroom jobs list --limit 5",
    no_args_is_help=True,
)

Status = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]


@app.command("list")
def list_jobs(
    server: Server = None,
    api_key: ApiKey = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE, help="At most this many.")] = 20,
    after: Annotated[
        str | None, typer.Option(help="Only jobs older than this one.", callback=identifier)
    ] = None,
    status: Annotated[
        Status | None,
        typer.Option(help="Only jobs with this status. Older jobs are read until there are enough."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List your jobs, newest first.

    Example: darkroom jobs list --status failed
    """
    with connected(server, api_key) as client:
        page = client.jobs(limit=limit, after=after) if status is None else _of(client, status, limit, after)
    if as_json:
        print_json(page)
        return
    print_table(HEADS, [_row(job) for job in page.data])
    if page.next_cursor:
        typer.echo(f"More: --after {page.next_cursor}", err=True)


@app.command()
def show(job_id: JobId, server: Server = None, api_key: ApiKey = None) -> None:
    """Show the record of a job, as JSON.

    Example: darkroom jobs show job_01m891b1nwt5m8j8181g2t3n06b
    """
    with connected(server, api_key) as client:
        print_json(client.job(job_id))


@app.command()
def cancel(job_id: JobId, server: Server = None, api_key: ApiKey = None) -> None:
    """Cancel a job. A job that has ended stays as it is.

    Example: darkroom jobs cancel job_01m891b1nwt5m8j8181g2t3n06b
    """
    with connected(server, api_key) as client:
        job = client.cancel(job_id)
    typer.echo(f"{job.id} {'is' if job.status == 'canceled' else 'stays'} {job.status}.")


def _of(client: Client, status: Status, limit: int, after: str | None) -> JobPage:
    """Returns up to `limit` jobs with that status, from as many pages as needed. Raises `ClientError`."""
    found = list[Job]()
    while True:
        page = client.jobs(limit=PAGE, after=after)
        found += [job for job in page.data if job.status == status]
        after = page.next_cursor
        if len(found) > limit:
            return JobPage(data=tuple(found[:limit]), next_cursor=found[limit - 1].id)
        if after is None:
            return JobPage(data=tuple(found))


def _row(job: Job) -> tuple[str, ...]:
    created = datetime.fromtimestamp(job.created_at).astimezone().isoformat(" ", "seconds")
    prompt = " ".join(str(job.request.get("prompt", "")).split())
    return job.id, created, job.status, job.cache, prompt[:PROMPT_CHARS]
