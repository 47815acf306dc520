"""`/`, the playground, and `/gallery`, the search: pages that load nothing from other hosts, and their files."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Annotated, Final

from fastapi import APIRouter, Header
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.routes.images import matches
from api.services import Wired

router = APIRouter(include_in_schema=False)

PAGE: Final = "index.html"
GALLERY: Final = "gallery.html"
ALONE: Final = "/"
"""The playground of a server without a search. No file has this name."""
LINK: Final = b'<a href="/gallery">Gallery</a> '
"""The link to the gallery in the playground's footer."""
TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The content security policy: only scripts and styles in our own files run."""


@router.get("/")
async def playground(services: Wired, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The playground. Without a search it has no link to the gallery."""
    return _answer(PAGE if services.settings.search_url else ALONE, if_none_match)


@router.get("/gallery")
async def gallery(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The search."""
    return _answer(GALLERY, if_none_match)


@router.get("/static/{name}")
async def part(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """One file of a page."""
    return _answer(name, if_none_match)


def _answer(name: str, if_none_match: str | None) -> Response:
    file = _files().get(name)
    if file is None:
        raise HTTPException(404)
    data, etag, media_type = file
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "ETag": etag}
    if if_none_match is not None and matches(if_none_match, etag):
        return Response(None, 304, headers)
    return Response(data, headers=headers, media_type=media_type)


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """All files of the pages by name: data, entity tag and media type.

    Files are looked up by name, so no path can leave the folder.
    """
    contents = {}
    for file in (files("api") / "static").iterdir():
        media_type = TYPES.get(file.name[file.name.rfind(".") :])
        if media_type is not None:
            contents[file.name] = _tagged(file.read_bytes(), media_type)
    contents[ALONE] = _tagged(contents[PAGE][0].replace(LINK, b""), TYPES[".html"])
    return contents


def _tagged(data: bytes, media_type: str) -> tuple[bytes, str, str]:
    return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"', media_type
