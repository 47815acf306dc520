"""`darkroom moderation reviews`, `release`, `refuse`, `undo`, `export` and `log`: held images, for reviewers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from cli.options import AdminKey, Json, Server
from cli.report import REFUSED, fail, say
from cli.server import connected_as_admin
from cli.tables import dash, date, print_json, print_table
from client import Client, Review, TrailEntry
from client.search import name_of
from contracts.exit_codes import UNUSABLE
from store.moderation_log import FIRST, LogEntry, fault_of

PAGE: Final = 100
TRAIL_PAGE: Final = 1000
PROMPT_CHARS: Final = 50
HEADS: Final = ("SEVERITY", "SINCE", "CATEGORIES", "SCORE", "SECOND LOOK", "PROMPT", "NAME")

Name = Annotated[
    str, typer.Argument(help="The image, as `darkroom moderation reviews` names it.", show_default=False)
]
Note = Annotated[str, typer.Option(help="Why, for other reviewers.")]


def reviews(
    decided: Annotated[
        bool, typer.Option("--decided", help="What people have decided, newest first.")
    ] = False,
    category: Annotated[str | None, typer.Option(help="Only of this category.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE, help="At most so many.")] = 20,
    as_json: Json = False,
    server: Server = None,
    api_key: AdminKey = None,
) -> None:
    """List held images that wait for a person, the gravest first.

    Example: darkroom moderation reviews --category weapons
    """
    with connected_as_admin(server, api_key) as client:
        page = client.reviews(
            state="decided" if decided else "waiting", limit=limit, category=category, tenant=tenant
        )
    if as_json:
        print_json(page)
        return
    print_table(
        HEADS,
        [
            (
                each.severity,
                date(each.created_at),
                ", ".join(each.categories),
                dash(each.score),
                dash(None if each.second_look is None else each.second_look.outcome),
                each.prompt[:PROMPT_CHARS],
                each.name,
            )
            for each in page.data
        ],
    )
    if not decided:
        say(f"{page.waiting} wait.")


def release(name: Name, note: Note = "", server: Server = None, api_key: AdminKey = None) -> None:
    """Show a held image to its owners, and tell them.

    Example: darkroom moderation release NAME --note "a toy"
    """
    _decide(name, "release", note, server, api_key)


def refuse(name: Name, note: Note = "", server: Server = None, api_key: AdminKey = None) -> None:
    """Keep a held image from its owners for good, and tell them.

    Example: darkroom moderation refuse NAME
    """
    _decide(name, "refuse", note, server, api_key)


def undo(name: Name, note: Note = "", server: Server = None, api_key: AdminKey = None) -> None:
    """Take a decision back: the image waits again, and nobody sees it.

    Example: darkroom moderation undo NAME
    """
    with connected_as_admin(server, api_key) as client:
        say(f"{name_of(name)}: {client.undo(name_of(name), note=note).state}.")


def export(
    out: Annotated[
        Path, typer.Argument(help="A new folder for decisions.jsonl, and for pictures.", show_default=False)
    ],
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Also the images themselves, by what was decided.")
    ] = False,
    server: Server = None,
    api_key: AdminKey = None,
) -> None:
    """Write what people decided: hashes for lists of known images, and labelled images for training.

    decisions.jsonl has one line for each image: sha256, decision, by whom, categories, prompt and findings. With
    --pictures the files lie in released/ and refused/. `darkroom moderation import` reads these folders.

    Example: darkroom moderation export decisions --pictures
    """
    if out.exists():
        fail(f"{out} exists: name a new folder.", UNUSABLE)
    with connected_as_admin(server, api_key) as client:
        decided = list(_all_decided(client))  # before the folder is made: the server may be away
        out.mkdir(parents=True)
        count = 0
        with (out / "decisions.jsonl").open("w", encoding="utf-8") as file:
            for each in decided:
                file.write(json.dumps(_exported(client.review(each.name)), ensure_ascii=False) + "\n")
                count += 1
                if pictures and each.undoable:
                    folder = out / each.state
                    folder.mkdir(exist_ok=True)
                    (folder / each.name).write_bytes(client.review_picture(each.name))
    say(f"{out}: {count} decisions.")


def log(
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Check every hash, and with DARKROOM_MODERATION_LOG_KEY every signature."
        ),
    ] = False,
    key: Annotated[
        str,
        typer.Option(
            help="The key that signs the trail.", envvar="DARKROOM_MODERATION_LOG_KEY", show_default=False
        ),
    ] = "",
    as_json: Json = False,
    server: Server = None,
    api_key: AdminKey = None,
) -> None:
    """Print the audit trail of moderation, oldest first. With --verify, exit code 1: it was changed.

    Keep the hash of the last entry elsewhere: it shows later whether the end was cut off.

    Example: darkroom moderation log --verify
    """
    with connected_as_admin(server, api_key) as client:
        entries = list(_trail(client))
    if as_json:
        print_json(entries)
    else:
        for entry in entries:
            what = entry.what
            who = what.get("by") or {"lapse": "nobody"}.get(what["action"], "the owner")
            typer.echo(f"{entry.number}  {date(entry.at)}  {what['action']}  {what['image']}  {who}")
    if not verify:
        return
    own = [LogEntry.model_validate(entry.model_dump()) for entry in entries]
    fault = fault_of(own, key)
    if fault is not None:
        fail(f"The audit trail does not hold: {fault}.", REFUSED)
    last = own[-1].hash if own else FIRST
    say(f"{len(own)} entries hold{' and are signed' if key else ''}. The last hash is {last}.")


def _decide(
    name: str, choice: Literal["release", "refuse"], note: str, server: str | None, api_key: str | None
) -> None:
    with connected_as_admin(server, api_key) as client:
        review = client.decide(name_of(name), choice, note=note)
    waits = " It waits for another reviewer." if review.state == "waiting" else ""
    say(f"{review.name}: {review.state}.{waits}")


def _all_decided(client: Client) -> Iterator[Review]:
    after = None
    while True:
        page = client.reviews(state="decided", limit=PAGE, after=after)
        yield from by_people(page.data)
        after = page.next_cursor
        if after is None:
            return


def by_people(reviews: Iterable[Review]) -> Iterator[Review]:
    """Yields the reviews that somebody has decided, and says who: an image that nobody looked at in time teaches
    nothing. A review without a decision is of an image that was decided before; by a model, if it says so."""
    return (each for each in reviews if (each.decision.by if each.decision else each.layer != "second_look"))


def _trail(client: Client) -> Iterator[TrailEntry]:
    first = 0
    while True:
        page = client.moderation_log(first=first, limit=TRAIL_PAGE)
        yield from page.data
        first += len(page.data)
        if len(page.data) < TRAIL_PAGE:
            return


def _exported(review: Review) -> dict[str, object]:
    return {
        "sha256": review.name.partition(".")[0],
        "decision": review.state,
        "categories": list(review.categories),
        "prompt": review.prompt,
        "policy": review.policy,
        "findings": list(review.findings),
        "by": None if review.decision is None else review.decision.by,
        "at": None if review.decision is None else review.decision.at,
    }
