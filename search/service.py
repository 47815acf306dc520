"""The HTTP service of the search process, for the API alone."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from contracts.errors import DarkroomError, SearchUnavailable, Unauthenticated
from contracts.pictures import Embedding
from contracts.search import IndexState, SearchQuery, Texts, TextVectors
from contracts.similar import SimilarAnswer, SimilarQuery
from search.embedder import Embedder
from search.query import Searcher
from search.similar import SimilarPrompts
from telemetry import metrics

_bearer = HTTPBearer(auto_error=False)


def create_app(
    searcher: Searcher,
    embedder: Embedder,
    state: Callable[[], Awaitable[IndexState]],
    rebuild: Callable[[], None],
    token: str,
    similar: SimilarPrompts | None = None,
) -> FastAPI:
    """The ASGI application.

    `token` is what callers must show; empty: nothing. `similar` is None where no floor is set.
    """

    async def known(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        shown = credentials.credentials if credentials is not None else ""
        if not secrets.compare_digest(shown.encode(), token.encode()):
            raise Unauthenticated("DARKROOM_SEARCH_TOKEN of the API and of the search process differ.")

    app = FastAPI(openapi_url=None, dependencies=[Depends(known)] if token else [])

    @app.exception_handler(DarkroomError)
    async def failed(_: Request, error: DarkroomError) -> JSONResponse:
        body = {"code": error.code, "message": error.message, "param": error.param}
        return JSONResponse({"error": body}, error.status)

    @app.post("/search")
    async def search(query: SearchQuery) -> Response:
        with metrics.SEARCH_SECONDS.time():
            answer = await searcher.search(query)
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")

    @app.post("/texts")
    async def texts(asked: Texts) -> TextVectors:
        vectors = [await embedder.text(text) for text in asked.texts]
        encoded = tuple(Embedding.of("", vector.astype("<f2").tobytes()).vector for vector in vectors)
        return TextVectors(clip=embedder.name, vectors=encoded)

    @app.post("/similar")
    async def similar_prompts(asked: SimilarQuery) -> SimilarAnswer:
        if similar is None:
            raise SearchUnavailable("The search process has no DARKROOM_SIMILAR_FLOOR.")
        return await similar.find(asked)

    @app.get("/state")
    async def index_state() -> IndexState:
        return await state()

    @app.post("/rebuild", status_code=202)
    async def ask_rebuild() -> IndexState:
        rebuild()
        return await state()

    return app
