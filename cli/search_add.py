"""`darkroom search add` and `remove`: pictures from elsewhere, for the search of a running server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli import record
from cli.crawl.bucket import SCHEME, BucketSource
from cli.crawl.folder import FolderSource
from cli.crawl.items import MAX_BYTES, WORDS, Source, SourceFailed, Summary
from cli.crawl.journal import Journal
from cli.crawl.run import Crawl
from cli.options import ApiKey, Json, Server, positive
from cli.server import connected, one_line_errors
from cli.tables import print_table
from client import AsyncClient, ConnectionFailed, Throttled, Unavailable
from client.protocol import server_address
from client.search import name_of
from contracts import exit_codes
from contracts.addresses import parse_networks

JOURNALS: Final = Path(".cache/crawls")
"""Where the journals of interrupted runs are, relative to the current folder."""
BAR: Final = (
    TextColumn("{task.description}"),
    BarColumn(24),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
)
PICTURE_NAME: Final = re.compile(r"[0-9a-f]{64}\.(?:png|webp|jpeg)")
GO_ON: Final = "Start the command again: it goes on where it was."


def _networks(text: str) -> str:
    try:
        parse_networks(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of networks, such as 10.1.0.0/16.") from None
    return text


def _source(text: str) -> str:
    if not text.strip():
        raise typer.BadParameter("Name a folder, a bucket or a file.")
    return text


def _picture_names(names: list[str]) -> list[str]:
    for name in names:
        with suppress(ValueError):
            if PICTURE_NAME.fullmatch(name_of(name)):
                continue
        raise typer.BadParameter(
            f"{name!r} is not the name or the URL of a picture: 64 hexadecimal digits and .png, .webp or .jpeg."
        )
    return names


def add(
    source: Annotated[
        str,
        typer.Argument(
            callback=_source,
            help="A folder, s3://BUCKET/PREFIX, or a text file with an address on each line, perhaps with a caption after it.",
            show_default=False,
        ),
    ],
    rate: Annotated[
        float, typer.Option(callback=positive, help="Requests a second to each host of a list of addresses.")
    ] = 2.0,
    max_bytes: Annotated[
        int, typer.Option(min=1, help="The largest file that is read. The server has a limit of its own.")
    ] = MAX_BYTES,
    allow_networks: Annotated[
        str,
        typer.Option(
            callback=_networks,
            help="Private networks that addresses of a list may lead to, such as 10.1.0.0/16.",
        ),
    ] = "",
    as_json: Json = False,
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Add pictures from elsewhere to the search: from a folder, a bucket or the web.

    Captions come from NAME.txt or NAME.json beside a picture, from the list, or from a page's alternative texts.
    A run that was interrupted goes on when it is started again.

    Example: darkroom search add pictures

    Example: darkroom search add s3://bucket/holidays

    Example: darkroom search add addresses.txt --rate 1
    """
    platform = None if server else record.running()
    url = server_address(platform.url if platform else server)
    console = Console(stderr=True)
    with Progress(*BAR, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("adding", total=None)

        def report(summary: Summary, total: int) -> None:
            left_out = f", {summary.left_out.total()} left out" if summary.left_out else ""
            bar.update(task, completed=summary.done, total=total, description=f"adding{left_out}")

        with one_line_errors():
            try:
                summary = asyncio.run(
                    _added(source, url, api_key, 1.0 / rate, max_bytes, allow_networks, report)
                )
            except SourceFailed as fault:
                typer.echo(str(fault), err=True)
                raise typer.Exit(exit_codes.FAILED) from None
            except (Throttled, Unavailable, ConnectionFailed):
                typer.echo(GO_ON, err=True)
                raise
            except KeyboardInterrupt:
                typer.echo(GO_ON, err=True)
                raise typer.Exit(exit_codes.INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps(_document(summary), indent=2, ensure_ascii=False))
    else:
        _print(summary)
    if summary.left_out:
        raise typer.Exit(exit_codes.FAILED)
    if not summary.done:
        typer.echo(
            f"{source} has no picture: files that end in .png, .jpg, .jpeg or .webp, or addresses.", err=True
        )
        raise typer.Exit(exit_codes.UNUSABLE)


def remove(
    names: Annotated[
        list[str],
        typer.Argument(
            callback=_picture_names, help="Names or URLs of pictures that were added.", show_default=False
        ),
    ],
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Remove pictures that were added: from the search, and their files.

    Example: darkroom search remove 314ed0….png
    """
    with connected(server, api_key) as client:
        for name in names:
            client.remove_image(name)
    typer.echo(f"Removed {len(names)} pictures.")


async def _added(
    source: str,
    url: str,
    api_key: str | None,
    interval_s: float,
    max_bytes: int,
    allowed: str,
    report: Any,
) -> Summary:
    """Adds the pictures of the source. Raises `SourceFailed`, `ClientError`, `typer.BadParameter`."""
    opened = _opened(source, interval_s, max_bytes, allowed)
    journal = None
    try:
        if not opened.local:
            name = hashlib.sha256(f"{url} {source}".encode()).hexdigest()[:16]
            journal = Journal(JOURNALS / f"{name}.journal")
        async with AsyncClient(url, api_key=api_key, retries=0) as client:
            finished = False
            try:
                summary = await Crawl(opened, client, journal, report).run()
                finished = True
            finally:
                if journal is not None:
                    journal.close(finished=finished)
        return summary
    finally:
        await opened.close()


def _opened(source: str, interval_s: float, max_bytes: int, allowed: str) -> Source:
    if source.startswith(SCHEME):
        return BucketSource(source, max_bytes)
    path = Path(source)
    try:
        if path.is_dir():
            return FolderSource(path, max_bytes)
        is_file = path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        is_file = False
    if not is_file:
        raise typer.BadParameter(
            f"{source!r} is neither a folder nor a file nor an address that begins with {SCHEME}.",
            param_hint="SOURCE",
        )
    try:
        # The image of the API has no Protego, which reads robots.txt.
        from cli.crawl.fetch import Fetcher
        from cli.crawl.web import WebSource
    except ImportError:
        raise SourceFailed("A list of addresses needs Protego: pip install 'darkroom[crawl]'") from None
    return WebSource(path, Fetcher(interval_s, parse_networks(allowed)), max_bytes)


def _document(summary: Summary) -> dict[str, Any]:
    return {
        "added": summary.added,
        "known": summary.known,
        "left_out": {reason.value: count for reason, count in summary.left_out.items()},
        "notes": {reason.value: count for reason, count in summary.notes.items()},
        "examples": {reason.value: examples for reason, examples in summary.examples.items()},
    }


def _print(summary: Summary) -> None:
    typer.echo(
        f"{summary.added} added, {summary.known} were there already, {summary.left_out.total()} left out."
    )
    counts = [*summary.left_out.most_common(), *summary.notes.most_common()]
    rows: list[Sequence[object]] = [
        (count, WORDS[reason], "; ".join(map(repr, summary.examples[reason][:1]))) for reason, count in counts
    ]
    if rows:
        print_table(("COUNT", "WHAT", "SUCH AS"), rows)
