"""`/v1/models`: what is served."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.auth import Caller
from api.present import model_view
from api.schemas import ModelList
from api.services import Wired, failures

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get(
    "",
    summary="List models",
    response_class=Response,
    responses={200: {"model": ModelList}, **failures(401, 403, 503)},
)
async def models(services: Wired, _: Caller) -> Response:
    """Every model, with its limits, its defaults, and how many workers serve it now."""
    served = await services.catalogue.models()
    listed = ModelList(data=[model_view(each, services.settings) for each in served])
    return Response(listed.model_dump_json(), media_type="application/json")
