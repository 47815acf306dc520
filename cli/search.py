"""`darkroom search`: finds images on a running server, and rebuilds its index. `cli/search_add.py` adds pictures to it."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli import search_add
from cli.contact_sheet import contact_sheet
from cli.group import Commands
from cli.options import AdminKey, ApiKey, Json, Server
from cli.output import Output
from cli.server import connected, connected_as_admin
from cli.tables import date, print_json, print_table
from client import Client, ClientError, Hit, NotFound, SearchFilters, SearchIndex
from client.search import name_of
from contracts import exit_codes

FIND: Final = "find"
PAGE: Final = 100
MOST: Final = 400
"""Hits of one command: what a contact sheet holds."""
MAX_IMAGE_BYTES: Final = 64 * 2**20
"""More than any server takes. The server's own limit is lower."""
MAX_SIDE: Final = 16_384
PROMPT_CHARS: Final = 60
POLL_S: Final = 0.5
HEADS: Final = ("SCORE", "WHY", "SIZE", "PROMPT", "NAME")
WHICH: Final = "Which pictures"


class WithDefault(Commands):
    """Takes what is no command as the arguments of `find`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Checks `args`, and parses them. Raises `typer.BadParameter`."""
        if args and args[0] not in (*self.commands, "--help") and not ctx.resilient_parsing:
            args = [FIND, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=WithDefault,
    help="Search: find pictures by words or by a picture; add pictures from elsewhere; rebuild the index.\n\n"
    'Example: darkroom search "a red apple" --out sheet.png\n\n'
    "What is no command is searched for; `darkroom search find --help` lists the options. "
    "To search for the word rebuild: darkroom search find rebuild",
    no_args_is_help=True,
)


def _name(text: str | None) -> str | None:
    if text is None:
        return None
    with suppress(ValueError):
        if search_add.PICTURE_NAME.fullmatch(name := name_of(text)):
            return name
    raise typer.BadParameter(
        f"{text!r} is not the name or the URL of a picture: 64 hexadecimal digits and .png, .webp or .jpeg."
    )


def _filter_name(text: str | None) -> str | None:
    if text == "":
        raise typer.BadParameter("A name is not empty.")
    return text


def _side(what: str) -> Any:
    return typer.Option(min=1, max=MAX_SIDE, help=f"{what}, in pixels.", rich_help_panel=WHICH)


def unix_seconds(text: str) -> float:
    """Returns the Unix seconds of a date or a time in ISO 8601, at least 0. Raises `typer.BadParameter`."""
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp())
    except (OverflowError, ValueError):
        raise typer.BadParameter(f"{text!r} is not a date or a time, such as 2026-11-30T04:05.") from None


def _time(what: str) -> Any:
    hint = f"{what}: a date or a time such as 2026-11-30T04:05, in local time if it names no zone."
    return typer.Option(parser=unix_seconds, metavar="TIME", help=hint, rich_help_panel=WHICH)


@app.command(FIND)
def find(
    query: Annotated[
        str | None,
        typer.Argument(
            help='What the picture shows, in words; "" lists the newest pictures.', show_default=False
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(help="The name or URL of a picture of the platform: find similar ones.", callback=_name),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            help="A picture to search by: PNG, JPEG or WebP.", exists=True, dir_okay=False, readable=True
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=MOST, help="At most this many.")] = 20,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Write a contact sheet of the hits: .png, .jpg or .webp, or - for standard output.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Drawn by this model.", callback=_filter_name, rich_help_panel=WHICH)
    ] = None,
    lora: Annotated[
        str | None,
        typer.Option(help="Drawn with this adapter.", callback=_filter_name, rich_help_panel=WHICH),
    ] = None,
    source: Annotated[
        Literal["generated", "imported"] | None,
        typer.Option(help="Drawn here, or brought in.", rich_help_panel=WHICH),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Drawn with this seed.", rich_help_panel=WHICH)
    ] = None,
    min_width: Annotated[int | None, _side("Least width")] = None,
    max_width: Annotated[int | None, _side("Largest width")] = None,
    min_height: Annotated[int | None, _side("Least height")] = None,
    max_height: Annotated[int | None, _side("Largest height")] = None,
    since: Annotated[float | None, _time("Drawn then or later")] = None,
    until: Annotated[float | None, _time("Drawn before that")] = None,
    as_json: Json = False,
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Find pictures, the best first. `find` may be left out.

    Example: darkroom search find "a red apple" --limit 5

    Example: darkroom search "a rocket" --model emoji-turbo --json

    Example: darkroom search "" -n 9 -o newest.png
    """
    if sum(given is not None for given in (query, like, image)) != 1:
        raise typer.BadParameter("Give one of words, --like and --image.")
    sheet = None if out is None else Output.of(out)
    if sheet is not None and sheet.path is None and as_json:
        raise typer.BadParameter(
            "Standard output takes only the sheet: name a file for --json.", param_hint="--out"
        )
    filters: SearchFilters = {
        "model": model,
        "lora": lora,
        "source": source,
        "seed": seed,
        "min_width": min_width,
        "max_width": max_width,
        "min_height": min_height,
        "max_height": max_height,
        "created_after": since,
        "created_before": until,
    }
    data = None if image is None else _bytes(image)
    with connected(server, api_key) as client:
        hits = list[Hit]()
        for page in client.search_pages(
            query or "", image=data, like=like, limit=min(limit, PAGE), **filters
        ):
            hits += page.data
            if len(hits) >= limit:
                break
        del hits[limit:]
        if sheet is not None and hits:
            _write(sheet, client, hits)
    if as_json:
        print_json(hits)
    elif not hits:
        typer.echo("Nothing was found.", err=True)
    elif sheet is None or sheet.path is not None:
        print_table(HEADS, [_row(hit) for hit in hits])
    if sheet is not None and sheet.path is not None and hits:
        typer.echo(f"The contact sheet: {sheet.path}", err=True)


app.command()(search_add.add)
app.command()(search_add.remove)


@app.command()
def rebuild(as_json: Json = False, server: Server = None, api_key: AdminKey = None) -> None:
    """Fill the search index again from the records of all pictures, and wait for the end. Searches go on meanwhile.

    Ctrl-C ends the command alone: the rebuild goes on.

    Example: darkroom search rebuild
    """
    with connected_as_admin(server, api_key) as client:
        try:
            index = _rebuilt(client)
        except KeyboardInterrupt:
            typer.echo("The rebuild goes on. `darkroom search rebuild` shows it again.", err=True)
            raise typer.Exit(exit_codes.INTERRUPTED) from None
    if as_json:
        print_json(index)
        return
    records = 0 if index.rebuild is None else index.rebuild.records
    typer.echo(f"Rebuilt from {records} records: {index.images} pictures, compared by {index.model}.")


def _rebuilt(client: Client) -> SearchIndex:
    """Begins a rebuild, or joins the one that runs, and returns the index once it has finished.

    Raises `ClientError`.
    """
    last = client.search_index().rebuild
    old = last if last is not None and last.finished_at is not None else None
    index = client.rebuild_search_index()
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("waiting", total=None)
        while True:
            now = index.rebuild
            if now is not None and (old is None or now.started_at != old.started_at):
                bar.update(task, description=f"{now.records} records, since {date(now.started_at)} UTC")
                if now.finished_at is not None:
                    return index
            time.sleep(POLL_S)
            index = client.search_index()


def _row(hit: Hit) -> tuple[str, ...]:
    why = ", ".join(f"{reason} {evidence.rank}" for reason, evidence in hit.why.items())
    prompt = " ".join(hit.prompt.split())
    return f"{hit.score:.4f}", why or "-", f"{hit.width}x{hit.height}", prompt[:PROMPT_CHARS], hit.name


def _write(sheet: Output, client: Client, hits: Sequence[Hit]) -> None:
    """Writes a contact sheet. Raises `ClientError`."""
    image = contact_sheet([(_picture(client.image, hit), hit.prompt) for hit in hits])
    data = io.BytesIO()
    image.save(data, sheet.format or "png")
    try:
        if sheet.path is None:
            sys.stdout.buffer.write(data.getvalue())
            sys.stdout.buffer.flush()
        else:
            sheet.path.write_bytes(data.getvalue())
    except OSError as error:
        raise ClientError(f"{sheet.path or 'Standard output'}: {error.strerror}.") from None


def _picture(read: Callable[[str], bytes], hit: Hit) -> Image.Image | None:
    """Returns the hit's pixels; None if its file has expired meanwhile or cannot be decoded. Raises `ClientError`."""
    try:
        with Image.open(io.BytesIO(read(hit.url))) as image:
            return image.convert("RGB")
    except (NotFound, UnidentifiedImageError, OSError, Image.DecompressionBombError):
        typer.echo(f"{hit.name} is left out: it cannot be read.", err=True)
        return None


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}.", param_hint="--image") from None
    if len(data) > MAX_IMAGE_BYTES:
        raise typer.BadParameter(f"{path} is larger than 64 MiB.", param_hint="--image")
    return data
