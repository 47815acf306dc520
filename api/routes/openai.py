"""`POST /v1/images/generations`: OpenAI's Images API, with the same jobs.

The answer is held until the images are ready.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from api import errors
from api.auth import Caller
from api.body import checked
from api.end_listener import EndListener
from api.job_request import JobRequest
from api.keyring import Principal
from api.openai import (
    EXPECTED,
    CompletedEvent,
    ImageData,
    ImagesAnswer,
    ImagesRequest,
    PartialEvent,
    answer,
    as_openai,
    b64,
    policy_violation,
    size_of,
    to_job,
    within_patience,
)
from api.read_limits import too_many
from api.services import Services, Wired, failures
from api.stream import BEAT, Put, sse
from contracts.errors import (
    ContentBlocked,
    ContentPolicyViolation,
    ContentUnderReview,
    DarkroomError,
    GenerationFailed,
    ImageNotFound,
    InvalidRequest,
    JobCanceled,
    JobExpired,
    RouteNotFound,
    StoreUnavailable,
    TooManyStreams,
)
from contracts.jobs import ImageRef, Job, JobResult, JobStatus, Preview
from telemetry.logs import get_logger
from views import warnings

router = APIRouter(prefix="/v1/images", tags=["images"])

GRACE_S: Final = 10.0
"""How long a request is held after the deadline of its job, in seconds. The sweeper ends the job
within that time."""

_EVERY_METHOD: Final = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

log = get_logger(__name__)


async def _body(request: Request) -> ImagesRequest:
    try:
        return await checked(request, ImagesRequest, EXPECTED)
    except InvalidRequest as error:
        raise as_openai(error) from None


@router.post(
    "/generations",
    summary="Generate images as OpenAI does",
    response_class=Response,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ImagesRequest.model_json_schema()}},
        }
    },
    responses={
        200: {
            "model": ImagesAnswer,
            "description": "The images; with `stream`, server-sent events.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "headers": {
                warnings.HEADER: {
                    "description": "Warnings, as a JSON array of strings: what the model did not read. Absent if there are none.",
                    "schema": {"type": "string"},
                }
            },
        },
        **failures(400, 401, 403, 404, 408, 409, 413, 415, 429, 502, 503),
    },
)
async def generations(
    request: Request, services: Wired, caller: Caller, body: Annotated[ImagesRequest, Depends(_body)]
) -> Response:
    """For OpenAI's clients: set their `base_url` to `/v1`.

    As with OpenAI, bad values are answered with 400.
    """
    job_request = to_job(body)
    async with services.waiters.listener() as listener:
        return await _generated(request, services, caller, body, job_request, listener)


async def _generated(
    request: Request,
    services: Services,
    caller: Principal,
    body: ImagesRequest,
    job_request: JobRequest,
    listener: EndListener,
) -> Response:
    try:
        job, _ = await services.jobs.submit(caller, job_request, listener=None if body.stream else listener)
    except InvalidRequest as error:
        raise as_openai(error) from None
    except ContentBlocked as error:
        raise policy_violation(error) from None
    except DarkroomError as error:
        raise within_patience(error, request.state.headers) from None
    if body.stream:
        write = _streamed(services, job, errors.request_id_of(request.scope))
        stream = services.streams.open(write, caller.holder, left=partial(_abandon, services, job))
        stream.headers.update(warnings.header(warnings.advice(job.request)))
        return stream
    begun = asyncio.get_running_loop().time()
    ended = await _ended(request, services, caller, job, listener)
    left_s = services.settings.job_ttl_s - (asyncio.get_running_loop().time() - begun)
    ended = await _reviewed(request, services, caller, ended, left_s)
    result, images = _result(ended), _shown(ended)
    data = []
    for image in images:
        if (body.response_format or services.settings.default_response_format) == "url":
            data.append(ImageData(url=f"{_base(request, services)}/v1/images/{image.name}"))
        else:
            data.append(ImageData(b64_json=b64(await services.stores.blobs.get(image.name))))
    view = answer(job.created_at, images, data, job.request.output_format)
    left_out = _left_out(result, images)
    return Response(
        view.model_dump_json(exclude_none=True),
        headers={
            "X-Job-ID": job.id,
            **warnings.header([*result.warnings, *left_out, *warnings.advice(job.request)]),
        },
        media_type="application/json",
    )


@router.api_route("/edits", methods=_EVERY_METHOD, include_in_schema=False)
@router.api_route("/variations", methods=_EVERY_METHOD, include_in_schema=False)
async def not_offered(request: Request) -> Response:
    """Refuse OpenAI's other two routes. Without this they would match the route of images, as names."""
    raise RouteNotFound(
        f"{request.url.path} is not offered here. To start from an image, send it as init_image to POST /v1/jobs."
    )


async def _ended(
    request: Request, services: Services, caller: Principal, job: Job, listener: EndListener
) -> Job:
    """The job once it has ended. A job that still waits is canceled when its only reader leaves."""
    if job.status.terminal:
        return job
    try:
        wait_s = services.settings.job_ttl_s + GRACE_S
        ended = await services.waiters.until_terminal(
            request, job.tenant, job.id, wait_s, caller.holder, listener
        )
    except ClientDisconnect:
        await _abandon(services, job)
        raise
    if ended is None:
        crowded = services.waiters.crowded(caller.holder)
        await _abandon(services, job)
        if crowded:
            raise too_many("waits", "You have too many requests waiting; submit a job and poll it.")
        raise TooManyStreams("No more requests can be held; submit a job and poll it.")
    return ended


async def _reviewed(request: Request, services: Services, caller: Principal, job: Job, left_s: float) -> Job:
    """The ended job once no image waits for a person. Raises `ContentUnderReview` after `left_s` seconds,
    with the job's id."""
    if not job.in_review:
        return job
    waited = await services.waiters.until_reviewed(request, job, max(0.0, left_s), caller.holder)
    if waited.in_review:
        raise ContentUnderReview(
            "A person will decide on this image. The job shows it once it is released.",
            details={"job_id": job.id},
        )
    return waited


def _shown(job: Job) -> list[ImageRef]:
    """The images that may be seen. Raises `ContentPolicyViolation` if there is none."""
    images = [image for image in _result(job).images if image.shown]
    if not images:
        raise ContentPolicyViolation(
            "The content policy does not allow these images.", details={"job_id": job.id}
        )
    return images


def _left_out(result: JobResult, shown: list[ImageRef]) -> list[str]:
    withheld = len(result.images) - len(shown)
    return (
        [f"{withheld} of {len(result.images)} images are withheld by the content policy."] if withheld else []
    )


async def _abandon(services: Services, job: Job) -> None:
    """Cancel the job, unless it runs: its only client has left, and nobody else knows of it."""
    try:
        now = await services.stores.jobs.get(job.tenant, job.id)
        if now.status is JobStatus.QUEUED:
            await services.jobs.cancel(job.tenant, job.id)
    except DarkroomError as error:
        log.warning("abandoned_job_left", job_id=job.id, code=error.code)


def _result(job: Job) -> JobResult:
    """The result of an ended job. Raises the error of a job that has none."""
    if job.result is not None:
        return job.result
    if job.failure is not None and job.failure.code == ContentBlocked.code:
        raise ContentPolicyViolation(
            "The content policy does not allow these images.", details={"job_id": job.id}
        )
    if job.failure is not None:
        raise GenerationFailed(
            job.failure.message,
            details={"job_id": job.id, "code": job.failure.code, "retryable": job.failure.retryable},
        )
    if job.status is JobStatus.CANCELED:
        raise JobCanceled("The job was canceled.", details={"job_id": job.id})
    raise JobExpired("The image was not drawn in time.", details={"job_id": job.id})


def _streamed(services: Services, job: Job, request_id: str) -> Any:
    """The writer of a streamed answer: partial images as they arrive, a completed event for each
    image, or an `error` event."""

    async def partial_image(preview: Preview) -> str:
        event = PartialEvent(
            partial_image_index=preview.index,
            b64_json=b64(await services.stores.blobs.get(preview.name)),
            created_at=int(job.created_at),
            output_format=job.request.output_format,
            size=f"{job.request.width}x{job.request.height}",
        )
        return sse(event.type, event.model_dump_json())

    async def write(put: Put) -> None:
        ended = job
        try:
            until = asyncio.get_running_loop().time() + services.settings.job_ttl_s
            follow = services.streams.readings.follow(job.tenant, job.id, until_reviewed=True)
            async with aclosing(follow) as readings:
                async for ended, _, previews in readings:
                    for preview in previews:
                        # A preview that cannot be read is skipped.
                        with suppress(ImageNotFound, StoreUnavailable):
                            await put(await partial_image(preview))
                    if ended.in_review and asyncio.get_running_loop().time() >= until:
                        break
                    if not ended.status.terminal or ended.in_review:
                        await put(BEAT)
            if ended.in_review:
                raise ContentUnderReview(
                    "A person will decide on this image. The job shows it once it is released.",
                    details={"job_id": ended.id},
                )
            _result(ended)
            for image in _shown(ended):
                event = CompletedEvent(
                    b64_json=b64(await services.stores.blobs.get(image.name)),
                    created_at=int(ended.finished_at or ended.created_at),
                    output_format=ended.request.output_format,
                    size=size_of(image),
                )
                await put(sse(event.type, event.model_dump_json()))
        except DarkroomError as error:
            body = {"type": "error", **errors.body(error, request_id)}
            await put(sse("error", json.dumps(body)))

    return write


def _base(request: Request, services: Services) -> str:
    """The address of this server for clients: that of the settings, else that of this request."""
    if services.settings.public_url:
        return services.settings.public_url.rstrip("/")
    return str(request.base_url).rstrip("/")
