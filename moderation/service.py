"""The HTTP service of the process that reads the meaning of prompts, for the API alone."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from contracts.errors import Unauthenticated
from contracts.meaning import MeaningQuery
from moderation.meaning import Meaning

_bearer = HTTPBearer(auto_error=False)


def create_app(meaning: Meaning, token: str) -> FastAPI:
    """The ASGI application. `token` is what callers must show; empty: nothing."""

    async def known(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        shown = credentials.credentials if credentials is not None else ""
        if not secrets.compare_digest(shown.encode(), token.encode()):
            raise Unauthenticated("DARKROOM_MODERATION_TOKEN of the API and of this process differ.")

    app = FastAPI(openapi_url=None)

    @app.exception_handler(Unauthenticated)
    async def refused(_: object, error: Exception) -> JSONResponse:
        return JSONResponse({"error": {"code": Unauthenticated.code, "message": str(error)}}, 401)

    @app.post("/look", dependencies=[Depends(known)] if token else [])
    async def look(query: MeaningQuery) -> Response:
        answer = await meaning.look(query.texts)
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        return {"policy": meaning.live.now.policy.title}

    return app
