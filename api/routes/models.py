"""`/v1/models`: the models that are served."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.auth import Caller
from api.normalise import checked_model_name
from api.schemas import ModelList, ModelView
from api.services import Wired, failures
from api.views import model_view
from contracts.errors import InvalidRequest, ModelNotFound

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
    answer = ModelList(data=[model_view(model, services.catalogue, services.settings) for model in served])
    return Response(answer.model_dump_json(), media_type="application/json")


@router.get(
    "/{model:path}",  # names may hold slashes
    summary="Read a model",
    response_class=Response,
    responses={200: {"model": ModelView}, **failures(401, 403, 404, 422, 503)},
)
async def one_model(model: str, services: Wired, _: Caller) -> Response:
    """The model with that name or alias, with its limits, its defaults, and how many workers serve it now."""
    try:
        served = await services.catalogue.resolve(checked_model_name(model))
    except InvalidRequest:
        raise ModelNotFound("There is no such model.", param="model") from None
    view = model_view(served, services.catalogue, services.settings)
    return Response(view.model_dump_json(), media_type="application/json")
