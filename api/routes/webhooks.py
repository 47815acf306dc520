"""For owners of receivers: the log of a job's deliveries, and the secret that signs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from api.auth import Caller
from api.services import Wired, failures
from contracts.errors import JobNotFound
from contracts.ids import is_job_id
from contracts.webhooks import DeliveryStatus, Secret, webhook_id
from views.job import Wire

OVERLAP_S: Final = 86_400.0
"""How long a replaced secret still signs, together with the new one, in seconds."""

router = APIRouter(prefix="/v1", tags=["webhooks"])


class AttemptView(Wire):
    """One call of the receiver. Without an answer `status_code` is null and `error` says why."""

    at: float
    duration_ms: float
    status_code: int | None
    error: str | None = Field(examples=["timeout"])


class DeliveryView(Wire):
    """The delivery of a job's event.

    `status` and `event` are null while there is nothing to deliver. Times are Unix seconds.
    """

    id: str = Field(
        description="The `webhook-id` of every attempt.", examples=["msg_01hf7yat00f3q8m2k5t9v1x4za7"]
    )
    url: str | None = Field(description="Null: the job names no webhook.")
    events: list[str]
    event: str | None = Field(examples=["job.succeeded"])
    status: DeliveryStatus | None
    attempts: list[AttemptView]
    next_attempt_at: float | None


class SecretView(Wire):
    """The secret that signs your webhooks. While there are two, verify with either."""

    secret: str = Field(examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"])
    created_at: float
    previous: str | None = Field(
        description="The replaced secret, which still signs together with the current one."
    )
    previous_expires_at: float | None


@router.get(
    "/jobs/{job_id}/webhook",
    summary="Read the log of a job's webhook",
    response_class=Response,
    responses={200: {"model": DeliveryView}, **failures(401, 403, 404, 410, 422, 503)},
)
async def delivery(services: Wired, caller: Caller, job_id: str) -> Response:
    """Every attempt to report the job's end, and when the next one is due."""
    if not is_job_id(job_id):
        raise JobNotFound("There is no such job.")
    log = await services.stores.webhooks.get(caller.tenant, job_id)
    view = DeliveryView(
        id=webhook_id(job_id, log.round),
        url=None if log.webhook is None else log.webhook.url,
        events=[] if log.webhook is None else list(log.webhook.events),
        event=log.event,
        status=log.status,
        attempts=[AttemptView(**attempt.model_dump()) for attempt in log.attempts],
        next_attempt_at=log.next_attempt_at,
    )
    return Response(view.model_dump_json(), media_type="application/json")


@router.get(
    "/webhooks/secret",
    summary="Read the secret that signs your webhooks",
    response_class=Response,
    responses={200: {"model": SecretView}, **failures(401, 403, 503)},
)
async def secret(services: Wired, caller: Caller) -> Response:
    """The secret is made when it is first asked for."""
    return _answer(await services.stores.webhooks.secrets(caller.tenant))


@router.post(
    "/webhooks/secret/rotate",
    summary="Replace the secret that signs your webhooks",
    response_class=Response,
    responses={200: {"model": SecretView}, **failures(401, 403, 503)},
)
async def rotate(services: Wired, caller: Caller) -> Response:
    """Replace the secret.

    Both sign for a day. A second rotation within that day ends the older one at once.
    """
    return _answer(await services.stores.webhooks.rotate(caller.tenant, OVERLAP_S))


def _answer(secrets: Sequence[Secret]) -> Response:
    current, previous = secrets[0], secrets[1] if len(secrets) > 1 else None
    view = SecretView(
        secret=current.value,
        created_at=current.created_at,
        previous=None if previous is None else previous.value,
        previous_expires_at=None if previous is None else previous.expires_at,
    )
    return Response(view.model_dump_json(), media_type="application/json")
