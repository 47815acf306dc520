"""`/v1/jobs/{id}/events`: the changes of a job as they happen."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from api.auth import Reader, owner_of
from api.routes.jobs import known
from api.services import Wired, failures

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_EXAMPLE = (
    'event: snapshot\nid: 0\ndata: {"id": "job_01hf7yat00f3q8m2k5t9v1x4za7", "status": "queued"}\n\n'
    'event: status\nid: 1\ndata: {"id": "job_01hf7yat00f3q8m2k5t9v1x4za7", "status": "running"}\n\n'
    'event: progress\nid: 2\ndata: {"step": 1, "steps": 4}\n\n'
    'event: preview\ndata: {"index": 0, "url": "/v1/images/1e.png"}\n\n'
    'event: output\ndata: {"images": [{"url": "/v1/images/0f.png"}]}\n\n'
    'event: status\nid: 3\ndata: {"id": "job_01hf7yat00f3q8m2k5t9v1x4za7", "status": "succeeded"}\n\n'
)


@router.get(
    "/{job_id}/events",
    summary="Follow a job",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events: `snapshot` (the job) first, then `status`, `progress`, `preview` "
            "(if the job asked for `previews`) and `output` as they happen. Ends after a terminal `status`; with "
            "`until=reviewed`, once no image waits for a person any more, which `moderated` says.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
        },
        204: {"description": "All events were sent already; do not come back."},
        **failures(401, 403, 404, 410, 422, 429, 503),
    },
)
async def events(
    request: Request,
    services: Wired,
    reader: Reader,
    job_id: str,
    last_event_id: Annotated[
        str | None, Header(description="The `id` of the last event seen. Only later events are sent.")
    ] = None,
    until: Annotated[
        Literal["ended", "reviewed"],
        Query(
            description="`reviewed`: go on after the end of the job, until people have decided on its held images."
        ),
    ] = "ended",
) -> Response:
    """Server-sent events.

    A stream that breaks can be resumed with `Last-Event-ID`, on any process and without a gap.
    """
    tenant = await owner_of(request, services, reader, known(job_id))
    job = await services.stores.jobs.get(tenant, job_id)
    headless = bool(request.scope["state"]["headless"])
    return services.streams.of(
        reader, job, last_event_id, until_reviewed=until == "reviewed", headless=headless
    )
