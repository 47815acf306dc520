"""`/v1/admin/sessions`: an operator signs people out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.auth import Admin
from api.services import Wired, failures

router = APIRouter(prefix="/v1/admin", tags=["operation"])

PERSON_PATTERN = r"^(person_[0-9a-f]{16}|[^#]+#.+)$"


@router.delete(
    "/sessions",
    summary="Sign people out",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Their sessions have ended."}, **failures(401, 403, 422, 503)},
)
async def end(
    services: Wired,
    _: Admin,
    person: Annotated[
        str | None,
        Query(
            pattern=PERSON_PATTERN,
            max_length=2500,
            description="Who: `issuer#subject` as in the audit trail of moderation, or `person_…` as in the log. Without it: everybody.",
        ),
    ] = None,
) -> Response:
    """End all sessions that began until now, of one person or of all. Who may still sign in can do so again."""
    if services.sign_in is not None:
        await services.sign_in.end_of(person)
    return Response(None, 204)
