"""`darkroom restore`: fills an empty platform from a backup. docs/operations.md has the whole procedure."""

from __future__ import annotations

import asyncio
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from redis.asyncio import Redis
from rich.progress import Progress

from backends.blobs import HELD, INPUTS, DirectoryBlobStore
from backends.redis_client import connect, disconnect
from backends.s3 import S3BlobStore
from cli import archive, rabbitmq, record
from cli.archive import ArchiveRefused, Manifest
from cli.operations import Folder, settings_of
from cli.report import REFUSED, bar, contents, fail, mebibytes, one_line_errors, say
from contracts.settings import BackendSettings, without_secrets
from store.audit import Audit, counts
from store.layout import SETTING, StoreLayout, stored_layout
from store.packed import RdbError
from store.rdb import Entry
from store.restoring import fill, holds_state, in_use, memory_limit, wipe
from store.stores import open_blobs


def restore(
    path: Annotated[
        Path,
        typer.Argument(help="The archive.", show_default=False, exists=True, dir_okay=False, readable=True),
    ],
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Delete the state in Redis first; also restore if its memory seems too small."
        ),
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check the archive. Uses no service.")] = False,
    rabbitmq_api: rabbitmq.Api = None,
    folder: Folder = record.FOLDER,
) -> None:
    """Fill an empty platform from an archive. API, workers and webhooks must not run.

    Checks the whole archive and its target before it writes anything.

    Example: darkroom restore /backups/darkroom-20261130T011500Z.tar
    """
    with one_line_errors(), bar() as progress:
        task = progress.add_task("Checking", total=path.stat().st_size)
        manifest = archive.check(path, lambda size: progress.advance(task, size))
        taken = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(manifest.taken_at))
        say(f"{path}: {contents(manifest)}, as of {taken} UTC, by Darkroom {manifest.version}.")
        if check:
            return
        settings = settings_of(folder)
        asyncio.run(_examine(settings, manifest, force=force))
        has_definitions = archive.DEFINITIONS in manifest.files
        if rabbitmq_api and has_definitions:
            rabbitmq.export(rabbitmq_api)
        # Images first, because a job must never name an image that does not exist yet.
        asyncio.run(_restore_images(settings, path, manifest, progress))
        if rabbitmq_api and has_definitions:
            rabbitmq.load(rabbitmq_api, archive.definitions(path))
        elif rabbitmq_api:
            say("The archive holds no definitions of RabbitMQ.")
        elif has_definitions:
            say("RabbitMQ's definitions were not restored: give --rabbitmq-api.")
        written, balance, layout = asyncio.run(_fill(settings, path, manifest, progress))
        say(f"{written} keys are restored; {manifest.keys - written} had expired.")
        for line in changes(manifest.settings, without_secrets(settings)):
            say(line)
        if not balance.balanced:
            fail("The counts of jobs do not balance: run `darkroom audit --full`.", REFUSED)
        say(f"{balance.recorded} jobs recorded, {balance.live} of them live.")
        if layout is not None and layout.shards != settings.shards:
            say(
                f"They are in {layout.shards} shards, but {SETTING} is {settings.shards}: run `darkroom migrate`, or set it to"
                f" {layout.shards}. Then start the platform."
            )
        else:
            say("Start the platform now.")


def changes(before: dict[str, str], now: dict[str, str]) -> Iterator[str]:
    """Yields a line for every setting that has changed since the backup."""
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            yield f"{name} was {before.get(name, 'unset')} and is {now.get(name, 'unset')}."


async def _examine(settings: BackendSettings, manifest: Manifest, *, force: bool) -> None:
    """Checks Redis and the free disk space. Raises `ArchiveRefused`."""
    client = connect(settings.redis_url, settings.redis_timeout_s)
    try:
        await _examine_redis(client, settings.redis_timeout_s, manifest, force=force)
    finally:
        await disconnect(client)
    if settings.blob_s3_bucket is None:
        free = await asyncio.to_thread(_free_bytes, settings.blob_dir)
        if free < manifest.picture_bytes:
            needed = mebibytes(manifest.picture_bytes)
            raise ArchiveRefused(
                f"{settings.blob_dir} has {mebibytes(free)} free, but the pictures need {needed}."
            )


async def _examine_redis(client: Redis, timeout_s: float, manifest: Manifest, *, force: bool) -> None:
    if await in_use(client, timeout_s):
        raise ArchiveRefused("A platform runs on this Redis: stop API, workers and webhooks, and wait 10 s.")
    if force:
        return
    if await holds_state(client, timeout_s):
        raise ArchiveRefused("Redis holds the state of a platform already: --force deletes it first.")
    limit = await memory_limit(client, timeout_s)
    if limit and limit < manifest.used_bytes:
        raise ArchiveRefused(
            f"The state comes from a Redis that used {mebibytes(manifest.used_bytes)}, but this one may use only"
            f" {mebibytes(limit)}: raise maxmemory, or give --force."
        )


def _free_bytes(folder: Path) -> int:
    """Returns the free bytes on the disk of `folder`, which may not exist yet."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


async def _restore_images(
    settings: BackendSettings, path: Path, manifest: Manifest, progress: Progress
) -> None:
    blobs = open_blobs(settings)
    task = progress.add_task("Pictures", total=len(manifest.pictures))
    for name, data, modified_at in archive.pictures(path):
        extension = name.rpartition(".")[2]
        await blobs.put(data, extension, is_input=name.startswith(INPUTS), is_held=name.startswith(HELD))
        if isinstance(blobs, DirectoryBlobStore):
            blobs.age(name, modified_at)
        progress.advance(task)
    if isinstance(blobs, S3BlobStore):
        await blobs.close()


async def _fill(
    settings: BackendSettings, path: Path, manifest: Manifest, progress: Progress
) -> tuple[int, Audit, StoreLayout | None]:
    """Writes the state. Returns the number of keys written, and the counts and the layout after that."""
    timeout_s = settings.redis_timeout_s
    client = connect(settings.redis_url, timeout_s)
    task = progress.add_task("State", total=manifest.keys)
    try:
        await wipe(client, timeout_s)
        now_ms = int(time.time() * 1000)
        written = await fill(
            client, _entries(path), now_ms, timeout_s, lambda count: progress.advance(task, count)
        )
        return written, await counts(client, timeout_s), await stored_layout(client, timeout_s)
    finally:
        await disconnect(client)


def _entries(path: Path) -> Iterator[Entry]:
    try:
        yield from archive.entries(path)
    except (RdbError, OSError, EOFError, zlib.error) as error:
        raise ArchiveRefused(f"{path} has changed since it was checked: start again with --force.") from error
