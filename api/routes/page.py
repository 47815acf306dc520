"""`/`: the playground, one page that needs no other host, and the files that it is made of."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Annotated, Final

from fastapi import APIRouter, Header
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.routes.images import matches

router = APIRouter(include_in_schema=False)

PAGE: Final = "index.html"
TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""No script or style runs but those of our own files."""


@router.get("/")
async def playground(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    return _answer(PAGE, if_none_match)


@router.get("/static/{name}")
async def part(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    return _answer(name, if_none_match)


def _answer(name: str, if_none_match: str | None) -> Response:
    found = _files().get(name)
    if found is None:
        raise HTTPException(404)
    data, etag, media_type = found
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "ETag": etag}
    if if_none_match is not None and matches(if_none_match, etag):
        return Response(None, 304, headers)
    return Response(data, headers=headers, media_type=media_type)


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """All files of the page by name, with their entity tags and media types: there is no path to walk out of."""
    found = {}
    for file in (files("api") / "static").iterdir():
        media_type = TYPES.get(file.name[file.name.rfind(".") :])
        if media_type is not None:
            data = file.read_bytes()
            found[file.name] = (data, f'"{hashlib.sha256(data).hexdigest()[:32]}"', media_type)
    return found
