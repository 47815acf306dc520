"""`darkroom webhooks`: the deliveries of a job's webhook, and the secret that signs them."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.group import Commands
from cli.options import ApiKey, JobId, Json, Server
from cli.server import connected
from cli.tables import dash, date, print_json, print_table

app = typer.Typer(
    cls=Commands,
    help="Webhooks: deliveries, secret.\n\nExample: darkroom webhooks secret",
    no_args_is_help=True,
)


@app.command()
def deliveries(job_id: JobId, as_json: Json = False, server: Server = None, api_key: ApiKey = None) -> None:
    """Show every attempt to report the end of a job.

    Example: darkroom webhooks deliveries job_01m891b1nwt5m8j8181g2t3n06b
    """
    with connected(server, api_key) as client:
        delivery = client.webhook_delivery(job_id)
    if as_json:
        print_json(delivery)
        return
    if delivery.url is None:
        typer.echo("The job names no webhook.")
        return
    typer.echo(f"{delivery.url}: {delivery.status or 'nothing to deliver yet'}")
    print_table(
        ("AT", "MS", "ANSWER"),
        [
            (date(attempt.at), f"{attempt.duration_ms:.0f}", dash(attempt.status_code or attempt.error))
            for attempt in delivery.attempts
        ],
    )
    if delivery.next_attempt_at is not None:
        typer.echo(f"The next attempt is at {date(delivery.next_attempt_at)}.")


@app.command()
def secret(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Replace the secret first. The old one still signs for a day.")
    ] = False,
    as_json: Json = False,
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Print the secret that signs your webhooks.

    Example: darkroom webhooks secret
    """
    with connected(server, api_key) as client:
        current = client.rotate_webhook_secret() if rotate else client.webhook_secret()
    if as_json:
        print_json(current)
        return
    typer.echo(current.secret)
    if current.previous is not None and current.previous_expires_at is not None:
        until = date(current.previous_expires_at)
        typer.echo(f"The secret before it, {current.previous}, still signs until {until}.", err=True)
