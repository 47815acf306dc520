"""`/v1/search/images`: images from elsewhere, which the search then finds as it finds drawn ones."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from api.auth import Caller
from api.body import checked
from api.imports import EXPECTED, HashesRequest, ImportRequest
from api.services import Wired, failures
from views.job import Wire, image_url

router = APIRouter(tags=["search"])

PATH: Final = "/v1/search/images"
KNOWN: Final = f"{PATH}/known"
_BODY_ERRORS: Final = failures(400, 401, 403, 404, 408, 413, 415, 422, 429, 503)
_PIXEL: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/q842iQAAAABJRU5ErkJggg=="
)


class ImportView(Wire):
    """An imported image."""

    name: str
    url: str
    added: bool = Field(description="False: it was imported before, and nothing was done.")


class KnownView(Wire):
    """A file that was imported before."""

    sha256: str
    name: str = Field(
        description="The name of the image. It is the hash of the stored file, not of this one."
    )


class KnownList(Wire):
    """The files that were imported before. All others are left out."""

    data: list[KnownView]


def _body(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    schema, examples = model.model_json_schema(), {"example": {"value": example}}
    content = {"application/json": {"schema": schema, "examples": examples}}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    PATH,
    summary="Import an image",
    openapi_extra=_body(ImportRequest, {"image": _PIXEL, "caption": "a white pixel"}),
    response_class=Response,
    responses={
        200: {"model": ImportView, "description": "It was imported before."},
        201: {"model": ImportView, "description": "It is imported, and a search finds it in a moment."},
        **_BODY_ERRORS,
    },
)
async def add(request: Request, services: Wired, caller: Caller) -> Response:
    """Import an image into your search.

    It is decoded and written anew, upright, without its metadata, and scaled down if it is large. It
    costs one request and one image of your key's limits; a file that you have imported before costs
    the request alone. `details.reason` of a 422 says why an image cannot be used: `base64`, `bytes`,
    `format`, `pixels`, `memory`, `time` or `damaged`.
    """
    body = await checked(request, ImportRequest, EXPECTED)
    imported = await services.imports.add(caller, body)
    view = ImportView(name=imported.name, url=image_url(imported.name), added=imported.added)
    return Response(view.model_dump_json(), 201 if imported.added else 200, media_type="application/json")


@router.post(
    KNOWN,
    summary="Which files were imported",
    openapi_extra=_body(HashesRequest, {"sha256": ["0" * 64]}),
    response_class=Response,
    responses={200: {"model": KnownList}, **_BODY_ERRORS},
)
async def known(request: Request, services: Wired, caller: Caller) -> Response:
    """Which of these files you have imported before: so you need not send them again."""
    services.read_rate.charge(caller.holder)
    body = await checked(request, HashesRequest, EXPECTED)
    names = await services.imports.known(caller.tenant, body.sha256)
    view = KnownList(data=[KnownView(sha256=digest, name=name) for digest, name in names.items()])
    return Response(view.model_dump_json(), media_type="application/json")


@router.delete(
    f"{PATH}/{{name}}",
    summary="Remove an imported image",
    status_code=204,
    response_class=Response,
    responses=failures(401, 403, 404, 422, 503),
)
async def remove(services: Wired, caller: Caller, name: str) -> Response:
    """Delete an image that you have imported. The search finds it no more in a moment.

    Its file goes too, unless another tenant has imported the same image.
    """
    await services.imports.remove(caller.tenant, name)
    return Response(None, 204)
