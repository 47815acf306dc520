"""`/`, the playground, `/gallery`, the search, and `/review`, for reviewers of held images: pages that load
nothing from other hosts, and their files."""

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
REVIEW: Final = "review.html"
LINKS: Final = {
    GALLERY: b'<a href="/gallery">Gallery</a> ',
    REVIEW: b'<a href="/review">Review</a> ',
}
"""The links in the playground's footer to pages that only some servers have a use for."""
TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The content security policy: only scripts and styles in our own files run."""
REVIEW_POLICY: Final = POLICY.replace("data:", "blob:")
"""The same for reviewers. Their key opens an image, so the script gets its bytes, and shows a `blob:` of them."""

Part = tuple[bytes, str, str]
"""Data, entity tag and media type."""


@router.get("/")
async def playground(services: Wired, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The playground. It links to the gallery where there is a search, and to the review where there is a policy."""
    settings = services.settings
    part = _playground(gallery=bool(settings.search_url), review=settings.moderation is not None)
    return _answer(part, if_none_match)


@router.get("/gallery")
async def gallery(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The search."""
    return _answer(_files()[GALLERY], if_none_match)


@router.get("/review")
async def review(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The queue of held images. It holds none itself: its script asks the admin API, with a reviewer's key."""
    return _answer(_files()[REVIEW], if_none_match, REVIEW_POLICY)


@router.get("/static/{name}")
async def part(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """One file of a page."""
    part = _files().get(name)
    if part is None:
        raise HTTPException(404)
    return _answer(part, if_none_match, REVIEW_POLICY if name == REVIEW else POLICY)


def _answer(part: Part, if_none_match: str | None, policy: str = POLICY) -> Response:
    data, etag, media_type = part
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache", "ETag": etag}
    if if_none_match is not None and matches(if_none_match, etag):
        return Response(None, 304, headers)
    return Response(data, headers=headers, media_type=media_type)


@cache
def _files() -> dict[str, Part]:
    """All files of the pages by name.

    Files are looked up by name, so no path can leave the folder.
    """
    contents = {}
    for file in (files("api") / "static").iterdir():
        media_type = TYPES.get(file.name[file.name.rfind(".") :])
        if media_type is not None:
            contents[file.name] = _tagged(file.read_bytes(), media_type)
    return contents


@cache
def _playground(*, gallery: bool, review: bool) -> Part:
    """The playground with these links."""
    page = _files()[PAGE][0]
    for name, shown in ((GALLERY, gallery), (REVIEW, review)):
        page = page if shown else page.replace(LINKS[name], b"")
    return _tagged(page, TYPES[".html"])


def _tagged(data: bytes, media_type: str) -> Part:
    return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"', media_type
