"""`/openapi.json` and `/docs`: the interface, described, with the limits of what is served now."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from api import docs
from api.openapi import complete
from api.services import Services
from contracts.errors import StoreUnavailable
from contracts.models import ServedModel

router = APIRouter(include_in_schema=False)

_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(docs.STYLE.encode()).digest()).decode("ascii")
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    return Response(json.dumps(await _document(request.app)), media_type="application/json")


@router.get("/docs")
async def reference(request: Request) -> Response:
    return Response(
        docs.page(await _document(request.app)),
        headers={"Content-Security-Policy": _POLICY},
        media_type="text/html",
    )


async def _document(app: FastAPI) -> dict[str, Any]:
    services: Services = app.state.services
    served: list[ServedModel] = []
    try:
        served = list(await services.catalogue.models())
    except StoreUnavailable:
        served = []  # the limits are an extra
    return complete(app.openapi(), served, services.settings)
