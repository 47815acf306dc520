"""`darkroom backup`: saves a running platform to one file. docs/operations.md says what it contains and when to take it."""

from __future__ import annotations

import asyncio
import gzip
import io
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import Progress

from backends.blobs import DirectoryBlobStore
from backends.redis_client import connect, disconnect
from cli import archive, rabbitmq, record
from cli.archive import Manifest
from cli.operations import Folder, settings_of
from cli.options import writable
from cli.report import bar, contents, one_line_errors, say
from cli.target import PIPE, target_of, written
from contracts.settings import BackendSettings, without_secrets
from runtime.clock import SystemClock
from store.rdb import RdbFile
from store.snapshot import connections, database_of, download, ours, to_line

NAMES: Final = "darkroom-????????T??????Z.tar"
GZIP_LEVEL: Final = 5


@dataclass(frozen=True, slots=True)
class State:
    """What the snapshots say: number of Darkroom's keys, time (Unix seconds), server, its memory in bytes."""

    keys: int
    taken_at: float
    server: str
    used_bytes: int


def backup(
    out: Annotated[
        Path,
        typer.Argument(
            help="A new file, a folder (the file is then named by the time), or - for standard output.",
            show_default=False,
            callback=writable,
        ),
    ],
    rdb: Annotated[
        list[Path] | None,
        typer.Option(
            help="Take the state from an RDB file, if Redis sends no snapshot. A cluster needs one for each node.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Include the pictures in DARKROOM_BLOB_DIR.")] = True,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1, help="Keep only this many of the newest archives in the folder, and delete the others."
        ),
    ] = None,
    rabbitmq_api: rabbitmq.Api = None,
    folder: Folder = record.FOLDER,
) -> None:
    """Save the state of a running platform: jobs, API keys, quotas, webhooks, pictures.

    The archive holds prompts, hashes of API keys and the secrets of webhooks. Protect it as you protect those.

    Example: darkroom backup /backups
    """
    with one_line_errors():
        settings = settings_of(folder)
        target = target_of(out, "darkroom")
        beside = None if target == PIPE else target.parent
        with (
            tempfile.TemporaryDirectory(prefix=".darkroom-backup-", dir=beside) as spool,
            bar() as progress,
        ):
            snapshots = rdb or asyncio.run(_download(settings, Path(spool), progress))
            lines = Path(spool, archive.STATE)
            state = _convert(snapshots, lines, settings, progress)
            definitions = rabbitmq.export(rabbitmq_api) if rabbitmq_api else None
            with written(target) as file:
                writer = archive.Writer(file)
                with lines.open("rb") as packed:
                    writer.add(archive.STATE, packed, lines.stat().st_size)
                if definitions is not None:
                    writer.add(archive.DEFINITIONS, io.BytesIO(definitions), len(definitions))
                left_out = _add_pictures(writer, settings, progress) if pictures else 0
                manifest = _manifest(state, settings, writer)
                writer.close(manifest)
        if settings.blob_s3_bucket is not None:
            say(f"The pictures are in the bucket {settings.blob_s3_bucket}, and not in the archive.")
        if left_out:
            say(
                f"{left_out} pictures were left out: they were deleted meanwhile, or are damaged (`darkroom doctor`)."
            )
        say(f"{target}: {contents(manifest)}.")
        if keep and out.is_dir():
            for path in sorted(out.glob(NAMES))[:-keep]:
                path.unlink()
                say(f"{path} is deleted.")


async def _download(settings: BackendSettings, spool: Path, progress: Progress) -> list[Path]:
    """Downloads the snapshot of every server that holds keys, and returns the files."""
    client = connect(settings.redis_url, settings.redis_timeout_s)
    task, files = progress.add_task("Snapshot", total=None), list[Path]()
    try:
        for connection in await connections(client, settings.redis_timeout_s):
            files.append(spool / f"{len(files)}.rdb")
            with files[-1].open("wb") as file:
                await download(
                    connection, file, settings.redis_timeout_s, lambda size: progress.advance(task, size)
                )
    finally:
        await disconnect(client)
    return files


def _convert(snapshots: list[Path], out: Path, settings: BackendSettings, progress: Progress) -> State:
    """Writes the state as lines to `out`. Raises `RdbError` for a key that a restore could not write."""
    database = database_of(connect(settings.redis_url, settings.redis_timeout_s))
    keys, times, about = 0, [], dict[str, str]()
    with gzip.open(out, "wb", compresslevel=GZIP_LEVEL) as lines:
        for path in snapshots:
            task = progress.add_task("Reading", total=path.stat().st_size)
            with path.open("rb") as file:
                snapshot = RdbFile(file)
                for entry in ours(snapshot, database):
                    lines.write(to_line(entry).encode() + b"\n")
                    keys += 1
                    progress.update(task, completed=file.tell())
            about = snapshot.about
            times.append(float(about.get("ctime", 0)))
    server = about.get("valkey-ver") or about.get("redis-ver", "unknown")
    return State(keys, min(times), server, int(about.get("used-mem", 0)))


def _add_pictures(writer: archive.Writer, settings: BackendSettings, progress: Progress) -> int:
    """Adds the images, and returns how many could not be added.

    They come after the state, because an image is written before its job names it.
    """
    if settings.blob_s3_bucket is not None:
        return 0
    paths = sorted(DirectoryBlobStore(settings.blob_dir, SystemClock()).paths())
    task, left_out = progress.add_task("Pictures", total=len(paths)), 0
    for name, path in paths:
        left_out += not writer.add_picture(name, path)
        progress.advance(task)
    return left_out


def _manifest(state: State, settings: BackendSettings, writer: archive.Writer) -> Manifest:
    return Manifest(
        format=archive.FORMAT,
        version=version("darkroom"),
        taken_at=state.taken_at,
        server=state.server,
        used_bytes=state.used_bytes,
        keys=state.keys,
        bucket=settings.blob_s3_bucket,
        settings=without_secrets(settings),
        files=writer.files,
    )
