"""`/`: the playground, one page that needs no other host."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

router = APIRouter(include_in_schema=False)

_PAGE = Path(__file__).parent.parent / "static" / "index.html"
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


@router.get("/")
async def playground() -> Response:
    page, headers = _page()
    return Response(page, headers=headers, media_type="text/html")


@cache
def _page() -> tuple[str, dict[str, str]]:
    """The page and its headers. Its own script and style are allowed by their hashes; nothing else runs."""
    page = _PAGE.read_text(encoding="utf-8")
    hashes = {"script": "", "style": ""}
    for kind, content in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode("ascii")
        hashes[kind] += f" 'sha256-{digest}'"
    policy = (
        f"default-src 'none'; script-src{hashes['script']}; style-src{hashes['style']}; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
