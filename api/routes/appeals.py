"""Appeals: an owner objects to a verdict on an image."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api.auth import Caller
from api.body import checked
from api.keyring import Principal
from api.normalise import invalid
from api.review_views import AppealedView
from api.routes.jobs import known
from api.services import Services, Wired, failures
from backends.blobs import is_public_name, public_name
from contracts.errors import ImageNotFound, NothingToAppeal, QuotaExceeded, ReviewNotFound
from contracts.jobs import ImageRef, Job
from contracts.reviews import MAX_NOTE_CHARS
from moderation.held import STATES

router = APIRouter(prefix="/v1", tags=["images"])

DAY_S: Final = 86_400.0


class AppealRequest(BaseModel):
    """The body of an appeal."""

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"examples": [{"reason": "It is a kitchen knife."}]}
    )

    reason: str = Field(min_length=1, max_length=MAX_NOTE_CHARS, description="Why the verdict is wrong.")


EXPECTED: Final = {"reason": f"a string of 1 to {MAX_NOTE_CHARS} characters"}
_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": AppealRequest.model_json_schema()}},
    }
}
_ANSWERS: Final = {
    202: {"model": AppealedView, "description": "Noted. The image is now the first that reviewers see."},
    **failures(400, 401, 403, 404, 408, 409, 410, 413, 415, 422, 429, 503),
}


async def _reason(request: Request) -> AppealRequest:
    body = await checked(request, AppealRequest, EXPECTED)
    if not body.reason.replace("\n", " ").isprintable():
        raise invalid([("reason", "reason must hold printable characters only.")])
    return body


Reason = Annotated[AppealRequest, Depends(_reason)]


@router.post(
    "/jobs/{job_id}/images/{index}/appeal",
    summary="Appeal against a verdict",
    response_class=Response,
    openapi_extra=_BODY,
    responses=_ANSWERS,
)
async def appeal_of_job(services: Wired, caller: Caller, job_id: str, index: str, body: Reason) -> Response:
    """Object to the verdict on image `index` (from 0) of a job, while it is in review or was refused.

    A second appeal changes nothing. A blocked image was not kept, so nobody can look at it.
    """
    job = await services.stores.jobs.get(caller.tenant, known(job_id))
    images = () if job.result is None else job.result.images
    place = int(index) if index.isascii() and index.isdigit() and len(index) <= 3 else len(images)
    if place >= len(images):
        raise ImageNotFound("The job has no such image.")
    name = await _name_of(services, job, place, images[place])
    return await _appealed(services, caller, name, body.reason, job.id, place)


@router.post(
    "/images/{name}/appeal",
    summary="Appeal against a verdict, by the image's name",
    response_class=Response,
    openapi_extra=_BODY,
    responses=_ANSWERS,
)
async def appeal_of_image(services: Wired, caller: Caller, name: str, body: Reason) -> Response:
    """As for an image of a job, for a caller who knows its name, such as from before a release was undone."""
    if not is_public_name(name):
        raise ReviewNotFound("There is no review of this image.")
    reviews = await services.stores.reviews.find(name)
    job = next((job for each in reviews for job in each.jobs if job.tenant == caller.tenant), None)
    if job is None:
        raise ReviewNotFound("There is no review of this image.")
    return await _appealed(services, caller, name, body.reason, job.id, job.indexes[0])


async def _name_of(services: Services, job: Job, place: int, image: ImageRef) -> str:
    """The file name of an image of the job. Raises `NothingToAppeal`."""
    if image.moderation is None or image.shown:
        raise NothingToAppeal("This image is shown.")
    if image.name:
        return public_name(image.name)
    # A refused image has no name in the record, but its review names the job.
    name = await services.stores.reviews.of_job(job.id, place)
    if image.moderation.state == "blocked" or name is None:
        raise NothingToAppeal("This image was not kept, so nobody can look at it.")
    return name


async def _appealed(
    services: Services, caller: Principal, name: str, reason: str, job_id: str, index: int
) -> Response:
    limit = services.settings.appeals_per_day
    if not await services.stores.reviews.count_once("appeals", caller.tenant, name, limit):
        raise QuotaExceeded(
            f"You may appeal {limit} times per day of UTC.",
            details={"limit": "appeals_per_day", "value": limit},
            retry_after_s=DAY_S - services.clock.now() % DAY_S,
        )
    review = await services.reviewing.appeal(name, caller.tenant, reason)
    view = AppealedView(job_id=job_id, index=index, verdict=STATES[review.state])
    return Response(view.model_dump_json(), 202, media_type="application/json")
