"""`/openapi.json` and `/docs`: the reference of the API, with the limits of the models that are
served now."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
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
    """The OpenAPI document."""
    return Response(await _written(request.app, "openapi", json.dumps), media_type="application/json")


@router.get("/docs")
async def reference(request: Request) -> Response:
    """The reference as an HTML page."""
    return Response(
        await _written(request.app, "docs", docs.page),
        headers={"Content-Security-Policy": _POLICY},
        media_type="text/html",
    )


async def _written(app: FastAPI, name: str, write: Callable[[dict[str, Any]], str]) -> bytes:
    services: Services = app.state.services
    served: list[ServedModel] = []
    with suppress(StoreUnavailable):  # the document then has no limits of models
        served = list(await services.catalogue.models())
    return services.documents.get(
        name, served, lambda: write(complete(app.openapi(), served, services.settings))
    )
