"""`/v1/jobs:batch`: many jobs in one request. Each is accepted or refused separately."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api import errors
from api.auth import Caller
from api.body import as_model, checked, with_accepted
from api.job_request import EXPECTED, JobRequest
from api.long_poll import watched
from api.routes.job_docs import IdempotencyKey
from api.schemas import ErrorBody
from api.services import Services, Wired, failures
from api.submit import Accepted
from api.views import job_views
from contracts.errors import DarkroomError, InternalError
from views.job import JobView, Wire

router = APIRouter(tags=["jobs"])

PATH: Final = "/v1/jobs:batch"
MAX_REQUESTS: Final = 256
"""The most requests in one batch."""
AT_ONCE: Final = 32
"""How many requests of one batch are active at once: enough to share calls to the store and to the
broker, and few enough to leave room for other clients."""

Checked = list[JobRequest | DarkroomError]
"""The requests of a batch: each is valid, or the error that it is answered with."""


class BatchItem(Wire):
    """The answer to one request. `status` is that of `POST /v1/jobs`; it comes with the job or the error."""

    index: int
    status: int
    job: JobView | None
    error: ErrorBody | None
    retry_after_s: int | None = Field(description="When a refused request may come again.")


class BatchView(Wire):
    """One item for each request, in the same order."""

    accepted: int
    refused: int
    data: list[BatchItem]


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["requests"],
                    "additionalProperties": False,
                    "properties": {
                        "requests": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": MAX_REQUESTS,
                            "items": {
                                "description": "As the body of `POST /v1/jobs`. Each is checked separately."
                            },
                        }
                    },
                    "examples": [{"requests": [{"prompt": "a red apple"}, {"prompt": "a green pear"}]}],
                }
            }
        },
    }
}


class _Batch(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    requests: list[Any] = Field(min_length=1, max_length=MAX_REQUESTS)


async def _requests(request: Request) -> Checked:
    expected = {"requests": f"a list of 1 to {MAX_REQUESTS} requests"}
    batch = await checked(request, _Batch, expected)
    accept = request.headers.get("accept", "")
    return [_checked(item, accept) for item in batch.requests]


def _checked(item: Any, accept: str) -> JobRequest | DarkroomError:
    try:
        return with_accepted(as_model(item, JobRequest, EXPECTED), accept)
    except DarkroomError as error:
        return error


@router.post(
    PATH,
    summary="Submit many jobs",
    openapi_extra=_BODY,
    response_class=Response,
    responses={
        200: {"model": BatchView, "description": "All were accepted."},
        207: {"model": BatchView, "description": "Some were refused: see each item."},
        **failures(400, 401, 403, 408, 413, 415, 422, 503),
    },
)
async def submit_batch(
    request: Request,
    services: Wired,
    caller: Caller,
    requests: Annotated[Checked, Depends(_requests)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit many jobs at once. An `Idempotency-Key` holds for each request at its place in the list."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(index: int, item: JobRequest | DarkroomError, gone: asyncio.Future[None]) -> Accepted:
        if isinstance(item, DarkroomError):
            raise item
        key = None if idempotency_key is None else f"{idempotency_key}#{index}"
        async with room:
            return await services.jobs.submit(caller, item, key, gone)

    async with watched(request) as gone:
        outcomes = await asyncio.gather(
            *(one(index, item, gone) for index, item in enumerate(requests)), return_exceptions=True
        )
    view = await _view(services, outcomes, errors.request_id_of(request.scope))
    return Response(view.model_dump_json(), 207 if view.refused else 200, media_type="application/json")


async def _view(
    services: Services, outcomes: Sequence[Accepted | BaseException], request_id: str
) -> BatchView:
    accepted = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
    jobs = [outcome.job for outcome in accepted]
    counted = {job.id: ahead for job, ahead in accepted if ahead is not None}
    views = iter(await job_views(jobs, services.stores.jobs, services.catalogue, counted))
    data = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Accepted):
            status = 200 if outcome.job.status.terminal else 202
            data.append(
                BatchItem(index=index, status=status, job=next(views), error=None, retry_after_s=None)
            )
        else:
            # An unexpected error was logged where it happened. The other jobs are accepted all the same.
            error = outcome if isinstance(outcome, DarkroomError) else InternalError(errors.UNFORESEEN)
            again = error.retry_after_s
            data.append(
                BatchItem(
                    index=index,
                    status=error.status,
                    job=None,
                    error=ErrorBody(**errors.body(error, request_id)["error"]),
                    retry_after_s=None if again is None else errors.whole_retry_after_s(again),
                )
            )
    return BatchView(accepted=len(jobs), refused=len(outcomes) - len(jobs), data=data)
