"""`/v1/images/{name}`: finished images. They are content-addressed, so they never change."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from api.services import Wired, failures
from backends.blobs import is_public_name
from contracts.errors import ImageNotFound, RangeNotSatisfiable

router = APIRouter(prefix="/v1/images", tags=["images"])

CONTENT_TYPES: Final = {"png": "image/png", "webp": "image/webp", "jpg": "image/jpeg", "jpeg": "image/jpeg"}
"""From the ending of a name to the content type."""
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z", re.ASCII)


@router.get(
    "/{name}",
    summary="Fetch an image",
    response_class=Response,
    responses={
        200: {
            "description": "The image.",
            "content": dict.fromkeys(("image/png", "image/webp", "image/jpeg"), _BINARY),
        },
        206: {"description": "The bytes of one `Range`."},
        304: {"description": "The copy named by `If-None-Match` is current."},
        **failures(404, 416, 422, 503),
    },
)
async def image(
    request: Request,
    services: Wired,
    name: str,
    range_: Annotated[str | None, Header(alias="Range", examples=["bytes=0-1023"])] = None,
    if_none_match: Annotated[str | None, Header()] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """The bytes of a finished image; they may be cached forever. Init images are not served."""
    content_type = CONTENT_TYPES.get(name.rpartition(".")[2])
    if content_type is None or not is_public_name(name):
        raise ImageNotFound("There is no such image.")
    etag = f'"{name.partition(".")[0]}"'
    data = await services.stores.blobs.get(name)
    headers = {
        "ETag": etag,
        "Cache-Control": "public, max-age=31536000, immutable",
        "Accept-Ranges": "bytes",
        "Content-Security-Policy": "default-src 'none'",
    }
    if if_none_match is not None and matches(if_none_match, etag):
        return Response(None, 304, headers)
    if range_ is None or (if_range is not None and if_range != etag):
        return Response(data, 200, headers, content_type)
    span = byte_range(range_, len(data))
    if span is None:
        return Response(data, 200, headers, content_type)
    if not span:
        request.state.headers["Content-Range"] = f"bytes */{len(data)}"
        raise RangeNotSatisfiable(f"The image has {len(data)} bytes; none of them is in that range.")
    headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{len(data)}"
    return Response(data[span.start : span.stop], 206, headers, content_type)


def matches(if_none_match: str, etag: str) -> bool:
    """Whether the header `if_none_match` names `etag`, by the weak comparison of RFC 9110 section 8.8.3.2."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return tags == ["*"] or etag in tags


def byte_range(header: str, size: int) -> range | None:
    """The byte range of a `Range` header (RFC 9110 section 14.1.2), cut to `size` bytes; empty: it
    cannot be satisfied.

    None: the header is malformed or has several ranges. A server may ignore such headers.
    """
    span = _RANGE.match(header.strip())
    if span is None or span[0] == "bytes=-":
        return None
    first, last = span[1], span[2]
    if not first:
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(size, int(last) + 1) if last else size)
