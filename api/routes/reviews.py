"""`/v1/admin/moderation`: held images, for keys and people with the scope `moderate`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api.auth import Moderator
from api.body import checked
from api.keyring import Principal
from api.normalise import invalid
from api.review_views import (
    PATH,
    LikeCase,
    LogEntryView,
    LogView,
    ReviewDetail,
    ReviewList,
    picture_path,
    review_detail,
    review_view,
)
from api.services import Services, Wired, failures
from backends.blobs import HELD, is_public_name
from contracts.errors import ImageNotFound, QuotaExceeded, ReviewNotFound
from contracts.moderation import CATEGORY
from contracts.reviews import MAX_NOTE_CHARS, Choice, Review
from contracts.tenancy import TENANT_PATTERN
from moderation.reviewing import Person
from moderation.similar import similar
from store.moderation_log import FIRST, fault_of

router = APIRouter(prefix=PATH, tags=["moderation"])

MAX_PAGES: Final = 20
"""How many pages of the store one filtered list reads."""
LIKE_AMONG: Final = 200
"""How many held and decided images are compared with one."""
LIKE: Final = 8
DAY_S: Final = 86_400.0
NO_STORE: Final = {"Cache-Control": "no-store"}


class NoteRequest(BaseModel):
    """The body of a decision."""

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"examples": [{"note": "harmless"}]}
    )

    note: str = Field(default="", max_length=MAX_NOTE_CHARS, description="Why, for other reviewers.")


EXPECTED: Final = {"note": f"a string of at most {MAX_NOTE_CHARS} characters"}
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_BODY: Final = {
    "requestBody": {
        "required": False,
        "content": {"application/json": {"schema": NoteRequest.model_json_schema()}},
    }
}


async def _note(request: Request) -> NoteRequest:
    if request.headers.get("content-length") in (None, "0") and "transfer-encoding" not in request.headers:
        return NoteRequest()
    return await checked(request, NoteRequest, EXPECTED)


Note = Annotated[NoteRequest, Depends(_note)]


@router.get(
    "/reviews",
    summary="List held images",
    response_class=Response,
    responses={200: {"model": ReviewList}, **failures(401, 403, 422, 503)},
)
async def list_reviews(
    services: Wired,
    _: Moderator,
    state: Annotated[
        Literal["waiting", "decided"], Query(description="`decided`: what people have decided, newest first.")
    ] = "waiting",
    limit: Annotated[int, Query(ge=1, le=100, description="Images on one page.")] = 20,
    after: Annotated[
        str | None, Query(max_length=200, description="The `next_cursor` of the page before.")
    ] = None,
    category: Annotated[str | None, Query(description="Of this category.", pattern=CATEGORY)] = None,
    tenant: Annotated[str | None, Query(description="Of this tenant.", pattern=TENANT_PATTERN)] = None,
    min_severity: Annotated[int, Query(ge=1, le=4, description="At least so severe.")] = 1,
) -> Response:
    """The gravest first, then the oldest. The bytes of an image are at its `picture` alone."""
    found: list[Review] = []
    names: set[str] = set()
    cursor = after or ""
    for _page in range(MAX_PAGES):
        try:
            page, cursor = await services.stores.reviews.page(
                limit - len(found), cursor, decided=state == "decided"
            )
        except ValueError:
            raise invalid([("after", "after must be the next_cursor of a page.")]) from None
        for review in page:
            wanted = (
                review.severity >= min_severity
                and (category is None or category in review.case.verdict.categories)
                and (tenant is None or any(job.tenant == tenant for job in review.jobs))
            )
            # One image may have a review for each digit of job ids.
            if wanted and review.name not in names:
                names.add(review.name)
                found.append(review)
        if not cursor or len(found) >= limit:
            break
    queue = await services.stores.reviews.queue()
    answer = ReviewList(
        data=[review_view(review) for review in found],
        next_cursor=cursor or None,
        waiting=queue.waiting,
        oldest_at=queue.oldest_at,
        reviewers=services.settings.reviewers,
    )
    return Response(answer.model_dump_json(), headers=NO_STORE, media_type="application/json")


@router.get(
    "/reviews/{name}",
    summary="Read a held image's review",
    response_class=Response,
    responses={200: {"model": ReviewDetail}, **failures(401, 403, 404, 422, 503)},
)
async def read_review(services: Wired, _: Moderator, name: str) -> Response:
    """All that is known of one held image: what each layer found, its prompt, its jobs, and like cases."""
    return await _detail(services, await services.reviewing.find(_known(name)))


@router.get(
    "/reviews/{name}/picture",
    summary="Open a held image",
    response_class=Response,
    responses={
        200: {
            "description": "The image. No cache may keep it.",
            "content": dict.fromkeys(("image/png", "image/webp", "image/jpeg"), _BINARY),
        },
        **failures(401, 403, 404, 422, 429, 503),
    },
)
async def picture(services: Wired, moderator: Moderator, name: str) -> Response:
    """The bytes of a held image, for reviewers alone.

    Each image that a key or a person opens counts once a day against `DARKROOM_REVIEW_PICTURES_PER_DAY`.
    """
    review = await services.reviewing.find(_known(name))
    limit = services.settings.review_pictures_per_day
    if limit is not None and not await services.stores.reviews.count_once(
        "opened", _person(moderator).id, name, limit
    ):
        raise QuotaExceeded(
            f"You may open {limit} held images per day of UTC.",
            details={"limit": "review_pictures_per_day", "value": limit},
            retry_after_s=DAY_S - services.clock.now() % DAY_S,
        )
    try:
        data = await services.stores.blobs.get(HELD + name)
    except ImageNotFound:
        raise ImageNotFound("The file of this image is deleted.") from None
    headers = {**NO_STORE, "Content-Security-Policy": "default-src 'none'", "X-Robots-Tag": "noindex"}
    return Response(data, 200, headers, review.case.content_type)


@router.post(
    "/reviews/{name}/release",
    summary="Release a held image",
    response_class=Response,
    openapi_extra=_BODY,
    responses={
        200: {"model": ReviewDetail},
        **failures(400, 401, 403, 404, 408, 409, 410, 413, 415, 422, 503),
    },
)
async def release(services: Wired, moderator: Moderator, name: str, body: Note) -> Response:
    """Show the image to its owners, and tell them by event and webhook.

    A second call does no harm. If another reviewer refused it before, the answer is 409. With
    `DARKROOM_REVIEWERS` above 1, `state` stays `waiting` until so many reviewers agree. An image whose file is
    gone is not released: the answer is 410, `held_image_gone`.
    """
    return await _decided(services, moderator, name, "release", body.note)


@router.post(
    "/reviews/{name}/refuse",
    summary="Refuse a held image",
    response_class=Response,
    openapi_extra=_BODY,
    responses={200: {"model": ReviewDetail}, **failures(400, 401, 403, 404, 408, 409, 413, 415, 422, 503)},
)
async def refuse(services: Wired, moderator: Moderator, name: str, body: Note) -> Response:
    """Keep the image from its owners for good, and tell them. Its file is deleted after
    `DARKROOM_REVIEW_UNDO_S`.

    Otherwise as `release`.
    """
    return await _decided(services, moderator, name, "refuse", body.note)


@router.post(
    "/reviews/{name}/undo",
    summary="Undo a decision",
    response_class=Response,
    openapi_extra=_BODY,
    responses={200: {"model": ReviewDetail}, **failures(400, 401, 403, 404, 408, 409, 413, 415, 422, 503)},
)
async def undo(services: Wired, moderator: Moderator, name: str, body: Note) -> Response:
    """The image waits again, and its address answers no more. A refusal can be undone while the file is kept."""
    review = await services.reviewing.undo(_known(name), _person(moderator), _printable(body.note))
    return await _detail(services, review)


@router.get(
    "/log",
    summary="Read the audit trail",
    response_class=Response,
    responses={200: {"model": LogView}, **failures(401, 403, 422, 503)},
)
async def trail(
    services: Wired,
    _: Moderator,
    first: Annotated[int, Query(ge=0, le=10**12, description="The number of the first entry.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Entries of one answer.")] = 100,
) -> Response:
    """Decisions on held images, oldest first. Each entry holds the hash of the one before.

    The answer says whether its part of the trail is whole, and signed by the server's key.
    """
    before = list(await services.stores.moderation_log.read(first - 1, 1)) if first else []
    entries = await services.stores.moderation_log.read(first, limit)
    previous = before[0].hash if before else FIRST
    fault = fault_of(entries, services.settings.moderation_log_key, first, previous) if entries else None
    answer = LogView(
        data=[LogEntryView(**entry.model_dump(include=set(LogEntryView.model_fields))) for entry in entries],
        fault=fault,
    )
    return Response(answer.model_dump_json(), headers=NO_STORE, media_type="application/json")


async def _decided(
    services: Services, moderator: Principal, name: str, choice: Choice, note: str
) -> Response:
    review = await services.reviewing.decide(_known(name), choice, _person(moderator), _printable(note))
    return await _detail(services, review)


async def _detail(services: Services, review: Review) -> Response:
    like = await _like(services, review)
    return Response(
        review_detail(review, like).model_dump_json(), headers=NO_STORE, media_type="application/json"
    )


async def _like(services: Services, review: Review) -> list[LikeCase]:
    """The most similar of the newest held and decided images."""
    if review.case.picture is None or review.case.picture.embedding is None:
        return []
    others: dict[str, Review] = {}
    for decided in (False, True):
        page, _ = await services.stores.reviews.page(LIKE_AMONG, decided=decided)
        others |= {each.name: each for each in page if each.name != review.name}
    return [
        LikeCase(
            name=each.name,
            state=each.state,
            similarity=round(score, 4),
            categories=list(each.case.verdict.categories),
            picture=picture_path(each.name),
        )
        for score, each in similar(review, others.values(), LIKE)
    ]


def _known(name: str) -> str:
    if not is_public_name(name):
        raise ReviewNotFound("There is no review of this image.")
    return name


def _printable(note: str) -> str:
    if not note.replace("\n", " ").isprintable():
        raise invalid([("note", "note must hold printable characters only.")])
    return note


def _person(moderator: Principal) -> Person:
    id_ = moderator.person or moderator.key_id or ""
    return Person(id_, "" if moderator.key is None else moderator.key.name)
