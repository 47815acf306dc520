"""`/v1/search` and `/v1/images/{name}/similar`: find images by words or by an image."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from api.auth import Admin, Reader
from api.body import as_model, checked
from api.search import CLICK_EXPECTED, EXPECTED, NAME, Click, SearchRequest
from api.services import Services, Wired, failures
from contracts.errors import ImageNotFound
from contracts.pictures import Source
from contracts.search import MAX_LIMIT, MAX_QUERY_CHARS, Hit, IndexState, SearchAnswer
from telemetry import metrics
from views.job import Wire, image_url

router = APIRouter(tags=["search"])

PATH: Final = "/v1/search"
MAX_NAME_CHARS: Final = 200
SIDE: Final = {"minimum": 1, "maximum": 16_384}
TIME: Final = {"minimum": 0, "exclusiveMaximum": 1e12}
LIMIT: Final = {"minimum": 1, "maximum": MAX_LIMIT}
"""Bounds for the document. `SearchRequest` checks them."""
SIMILAR: Final = "/v1/images/{name}/similar"
_ERRORS: Final = failures(401, 403, 404, 422, 429, 503)


class EvidenceView(Wire):
    """The rank of a hit in one list, from 1, and that list's own score."""

    rank: int
    score: float


class HitView(Wire):
    """One image that was found."""

    name: str
    url: str
    score: float = Field(description="Higher is better. Comparable within one answer only.")
    why: dict[str, EvidenceView] = Field(
        description="`vector`: what it shows; the score is the cosine similarity. `words`: its prompt. `rerank`: what it "
        "shows by a second model. `clicks`: its share of your clicks on hits of this query."
    )
    reranked: bool | None = Field(
        description="Whether a second model has placed it; false where its time was up, or beyond the first hundred; null "
        "without one."
    )
    prompt: str = Field(description="The prompt, or the caption of an imported image.")
    model: str
    lora: str | None
    width: int
    height: int
    seed: int | None
    source: Source
    created_at: float
    job_id: str | None
    origin: str | None = Field(description="Where an imported image comes from.")


class SearchView(Wire):
    """The hits, best first.

    `next_cursor` is the `cursor` of the next answer; null on the last one.
    """

    data: list[HitView]
    next_cursor: str | None
    model: str = Field(description="The CLIP that compared the images.")


class RebuildView(Wire):
    """How far a rebuild has come. Times are Unix seconds."""

    started_at: float
    records: int = Field(description="Records of jobs that were read.")
    finished_at: float | None


class IndexView(Wire):
    """The search index."""

    model: str
    images: int
    bytes_on_disk: int
    bytes_in_memory: int
    owed_jobs: int = Field(description="Jobs whose images are still to come.")
    rebuild: RebuildView | None = Field(description="The last rebuild of the index; null: there was none.")


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": SearchRequest.model_json_schema(),
                "examples": {"words": {"value": {"q": "a red apple", "limit": 10}}},
            }
        },
    }
}


@router.get(
    PATH, summary="Search images", response_class=Response, responses={200: {"model": SearchView}, **_ERRORS}
)
async def search(
    request: Request,
    services: Wired,
    reader: Reader,
    q: Annotated[
        str | None,
        Query(
            description="What the image shows, in words.",
            json_schema_extra={"maxLength": MAX_QUERY_CHARS},
            examples=["a red apple"],
        ),
    ] = None,
    like: Annotated[str | None, Query(description="The name of an image: find similar ones.")] = None,
    model: Annotated[
        str | None,
        Query(
            description="Drawn by this model.",
            json_schema_extra={"minLength": 1, "maxLength": MAX_NAME_CHARS},
        ),
    ] = None,
    lora: Annotated[
        str | None,
        Query(
            description="Drawn with this adapter; empty: without one.",
            json_schema_extra={"maxLength": MAX_NAME_CHARS},
        ),
    ] = None,
    source: Annotated[
        Literal["generated", "imported"] | None, Query(description="Drawn here, or brought in.")
    ] = None,
    seed: Annotated[
        int | None,
        Query(description="Drawn with this seed.", json_schema_extra={"minimum": 0, "maximum": 2**63 - 1}),
    ] = None,
    min_width: Annotated[int | None, Query(description="In pixels.", json_schema_extra=SIDE)] = None,
    max_width: Annotated[int | None, Query(description="In pixels.", json_schema_extra=SIDE)] = None,
    min_height: Annotated[int | None, Query(description="In pixels.", json_schema_extra=SIDE)] = None,
    max_height: Annotated[int | None, Query(description="In pixels.", json_schema_extra=SIDE)] = None,
    created_after: Annotated[
        float | None, Query(description="Unix seconds, inclusive.", json_schema_extra=TIME)
    ] = None,
    created_before: Annotated[
        float | None, Query(description="Unix seconds, exclusive.", json_schema_extra=TIME)
    ] = None,
    limit: Annotated[
        int | None,
        Query(
            description=f"Hits of one answer, at most {MAX_LIMIT}; by default 20.", json_schema_extra=LIMIT
        ),
    ] = None,
    cursor: Annotated[str | None, Query(description="The `next_cursor` of the answer before.")] = None,
) -> Response:
    """Your images that show what the words say, best first; without words the newest.

    You see the images of your tenant and those that are shared with all.
    """
    given = {
        "q": q,
        "like": like,
        "model": model,
        "lora": lora,
        "source": source,
        "seed": seed,
        "min_width": min_width,
        "max_width": max_width,
        "min_height": min_height,
        "max_height": max_height,
        "created_after": created_after,
        "created_before": created_before,
        "limit": limit,
        "cursor": cursor,
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    return await _answer(services, reader.tenant, as_model(wanted, SearchRequest, EXPECTED))


@router.post(
    PATH,
    summary="Search images by an image",
    openapi_extra=_BODY,
    response_class=Response,
    responses={200: {"model": SearchView}, **failures(400, 401, 403, 404, 408, 413, 415, 422, 429, 503)},
)
async def search_by_body(request: Request, services: Wired, reader: Reader) -> Response:
    """As `GET`, with a body, which may have an `image` to search by."""
    body = await checked(request, SearchRequest, EXPECTED)
    return await _answer(services, reader.tenant, body)


@router.get(
    SIMILAR,
    summary="Similar images",
    response_class=Response,
    responses={200: {"model": SearchView}, **_ERRORS},
)
async def similar(
    services: Wired,
    reader: Reader,
    name: str,
    limit: Annotated[
        int | None,
        Query(
            description=f"Hits of one answer, at most {MAX_LIMIT}; by default 20.", json_schema_extra=LIMIT
        ),
    ] = None,
    cursor: Annotated[str | None, Query(description="The `next_cursor` of the answer before.")] = None,
) -> Response:
    """Images that look like this one, the most similar first."""
    if not NAME.match(name):
        raise ImageNotFound("There is no such image.")
    wanted = {"like": name, "limit": limit, "cursor": cursor}
    given = {key: value for key, value in wanted.items() if value is not None}
    return await _answer(services, reader.tenant, as_model(given, SearchRequest, EXPECTED))


@router.post(
    f"{PATH}/clicks",
    summary="Report a hit that was chosen",
    status_code=204,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": Click.model_json_schema()}},
        }
    },
    responses=failures(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
)
async def click(request: Request, services: Wired, reader: Reader) -> None:
    """Images that are often chosen move up, by 20 places at most, when your tenant searches for the same words.

    The same click counts once a day. An image that no search finds gains nothing.
    """
    services.search.require()
    services.read_rate.charge(reader.holder)
    body = await checked(request, Click, CLICK_EXPECTED)
    services.jobs.room.require(reader.tenant)
    now = services.clock.now()
    counted = await services.stores.clicks.add(reader.tenant, body.query, body.image, reader.holder, now)
    metrics.SEARCH_CLICKS.labels("counted" if counted else "ignored").inc()


@router.get("/v1/admin/search", summary="The search index", responses=failures(401, 403, 404, 503))
async def state(services: Wired, _: Admin) -> IndexView:
    """How much the index holds, and how much is still to come."""
    return _state_view(await services.search.state())


@router.post(
    "/v1/admin/search/rebuild",
    summary="Rebuild the search index",
    status_code=202,
    responses=failures(401, 403, 404, 503),
)
async def rebuild(services: Wired, _: Admin) -> IndexView:
    """Fill the index again from the records in the store. Searches go on meanwhile."""
    return _state_view(await services.search.rebuild())


def _state_view(state: IndexState) -> IndexView:
    last = state.rebuild
    return IndexView(
        model=state.clip,
        images=state.pictures,
        bytes_on_disk=state.bytes_on_disk,
        bytes_in_memory=state.bytes_in_memory,
        owed_jobs=state.owed,
        rebuild=None
        if last is None
        else RebuildView(started_at=last.started_at, records=last.seen, finished_at=last.finished_at),
    )


async def _answer(services: Services, tenant: str, body: SearchRequest) -> Response:
    view = view_of(await services.search.search(tenant, body))
    return Response(view.model_dump_json(), media_type="application/json")


def view_of(answer: SearchAnswer) -> SearchView:
    """The answer as clients get it."""
    return SearchView(data=[_hit(hit) for hit in answer.hits], next_cursor=answer.cursor, model=answer.clip)


def _hit(hit: Hit) -> HitView:
    picture = hit.picture
    return HitView(
        name=picture.name,
        url=image_url(picture.name),
        score=hit.score,
        why={reason: EvidenceView(rank=each.rank, score=each.score) for reason, each in hit.why.items()},
        reranked=hit.reranked,
        prompt=picture.prompt,
        model=picture.model,
        lora=picture.lora or None,
        width=picture.width,
        height=picture.height,
        seed=picture.seed,
        source=picture.source,
        created_at=picture.created_at,
        job_id=picture.job_id if picture.source == "generated" else None,
        origin=picture.origin or None,
    )
