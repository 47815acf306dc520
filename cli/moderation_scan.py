"""`darkroom moderation scan`: applies the policy in force to all images that are stored, cached or recorded.

It reads the settings of the services, like `darkroom tenant erase`.
"""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cli import record
from cli.moderation_import import end_unusable
from cli.operations import Folder, settings_of
from cli.options import Json, tenant_name
from cli.report import AWAY, REFUSED, fail, one_line_errors, say
from cli.search import unix_seconds
from contracts import exit_codes
from contracts.errors import BlobStoreUnavailable
from contracts.scans import Outcome, Phase, Scan, Scope
from moderation.child_embedder import ChildEmbedder, EmbeddingFailed
from moderation.policy import InvalidPolicy, Policy, read
from runtime.clock import SystemClock
from store.layout import require_layout
from store.stores import open_stores

WORDS: Final = {
    Outcome.GONE: "gone meanwhile",
    Outcome.PASSED: "passed",
    Outcome.TAGGED: "tagged",
    Outcome.DECIDED: "released by people before",
    Outcome.UNJUDGED: "not judged",
    Outcome.HELD: "held",
    Outcome.BLOCKED: "blocked",
}
PHASES: Final = {
    Phase.JOBS: "job records",
    Phase.PICTURES: "image records",
    Phase.FILES: "files",
    Phase.RESULTS: "cached results",
    Phase.LATE: "jobs of meanwhile",
}


def scan(
    since: Annotated[
        float | None,
        typer.Option(
            parser=unix_seconds,
            metavar="TIME",
            help="Only images stored then or later: a date or a time such as 2026-11-30T04:05.",
        ),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Only images of this tenant.", callback=tenant_name)
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only say what would be done. Looks are kept for a scan that follows."
        ),
    ] = False,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Look at no more images per second than this.")
    ] = None,
    clip: Annotated[
        str,
        typer.Option(envvar="DARKROOM_CLIP", help="The CLIP of the workers; heads need it. Empty: none."),
    ] = "",
    log_key: Annotated[
        str,
        typer.Option(
            envvar="DARKROOM_MODERATION_LOG_KEY",
            help="The key that signs the audit trail: that of the API.",
            show_default=False,
        ),
    ] = "",
    by: Annotated[
        str, typer.Option(help="Who scans, for the audit trail; by default the user of this machine.")
    ] = "",
    as_json: Json = False,
    folder: Folder = record.FOLDER,
) -> None:
    """Apply the policy in force to all images that are stored: take away what it blocks, hold what it reviews.

    The platform may run meanwhile. An interrupted scan goes on where it was, if the policy and the options are the same.
    Exit code 1: another scan runs, or some images could not be judged.

    Example: darkroom moderation scan --dry-run
    """
    with one_line_errors():
        settings = settings_of(folder)
        if settings.moderation is None:
            fail("darkroom moderation: DARKROOM_MODERATION names no policy.", AWAY)
        try:
            from moderation.judge import open_judge
            from moderation.scanning import Rules, Scanner, ScanRunning
            from moderation.stored_pictures import StoredPictures, digest_of
            from moderation.words import compiled
        except ModuleNotFoundError as error:
            end_unusable(f"This needs the package {error.name}: pip install 'darkroom[moderation]'.")

        async def scanned(
            policy: Policy, embedder: ChildEmbedder | None, show: Callable[[Scan], None]
        ) -> Scan:
            name = "" if embedder is None else embedder.clip
            judge = open_judge(policy, name)
            rules = Rules(policy, compiled(policy), digest_of(policy, name), name)
            clock, stores = SystemClock(), open_stores(settings, log_key=log_key)
            try:
                await require_layout(settings)
                pictures = StoredPictures(
                    stores.blobs,
                    stores.scans,
                    judge,
                    rules.looks,
                    clock,
                    clip=name,
                    embed=None if embedder is None else embedder.embed,
                    per_s=rate,
                )
                scanner = Scanner(
                    stores,
                    rules,
                    pictures,
                    clock,
                    by=by or getpass.getuser(),
                    keep_s=settings.blob_retention_s,
                    on_progress=show,
                )
                return await scanner.run(Scope(since=since or 0.0, tenant=tenant, dry_run=dry_run))
            finally:
                judge.close()
                await stores.close()

        try:
            policy = read(settings.moderation)
            with ExitStack() as stack:
                embedder = stack.enter_context(ChildEmbedder(clip)) if clip else None
                done = asyncio.run(scanned(policy, embedder, stack.enter_context(_bar())))
            changed = read(settings.moderation) != policy
        except (InvalidPolicy, EmbeddingFailed) as error:
            end_unusable(str(error))
        except ScanRunning as error:
            fail(str(error), REFUSED)
        except BlobStoreUnavailable as error:
            fail(f"{error.message} Run the command again: it goes on.", AWAY)
        except KeyboardInterrupt:
            say("The scan is interrupted. Run the command again: it goes on.")
            raise typer.Exit(exit_codes.INTERRUPTED) from None
    if as_json:
        typer.echo(done.model_dump_json(indent=2, exclude={"cursor", "server", "phase"}))
    say(summary(done))
    if changed:
        fail("The policy has changed meanwhile. Scan again.", REFUSED)
    if done.images.get(Outcome.UNJUDGED):
        fail("Some images could not be judged, and stay as they are. Scan again.", REFUSED)


def summary(scan: Scan) -> str:
    """Returns what the scan did, in words."""
    verb = "would be" if scan.dry_run else "were"
    parts = ", ".join(
        f"{scan.images[outcome]} {words}" for outcome, words in WORDS.items() if scan.images.get(outcome)
    )
    return (
        f"{scan.policy}: {sum(scan.images.values())} images ({parts or 'none'}), {scan.looked} of them looked at. "
        f"{scan.jobs} records {verb} changed, {scan.results} cached results {verb} dropped."
    )


@contextmanager
def _bar() -> Iterator[Callable[[Scan], None]]:
    """Shows a bar on a terminal. Of the files it is known how many are left, since their names are evenly spread."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("begins", total=None, counts="")
        clock = SystemClock()
        begun: list[tuple[float, int]] = []

        def show(scan: Scan) -> None:
            images = sum(scan.images.values())
            begun.append((clock.monotonic(), images))
            seconds = max(0.001, clock.monotonic() - begun[0][0])
            del begun[1:]
            counts = (
                f"{images} images, {(images - begun[0][1]) / seconds:.0f}/s, {scan.images.get(Outcome.HELD, 0)} held, "
                f"{scan.images.get(Outcome.BLOCKED, 0)} blocked"
            )
            known: dict[str, Any] = {"total": None}
            if scan.phase is Phase.FILES:
                known = {"total": 1.0, "completed": int(scan.cursor[:4] or "0", 16) / 65_536}
            bar.update(task, description=PHASES[scan.phase], counts=counts, **known)

        yield show
