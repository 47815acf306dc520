"""A route whose endpoint takes the bare request: past the framework's matching, its exit stacks and its resolving of parameters.

For one whose own work costs less than these. The framework describes it as any other, from what it is registered with.
"""

from __future__ import annotations

from typing import Final

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

_ELSEWHERE: Final[tuple[Match, Scope]] = (Match.NONE, {})


class FastRoute(APIRoute):
    """Takes one method at exactly its path. Whatever else comes is left to the routes behind it. Its endpoint takes the request alone, and
    answers a response. Errors are answered as everywhere, by the handlers around the router."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["path"] == self.path and scope["method"] in (self.methods or ()):
            return Match.FULL, {"route": self, "endpoint": self.endpoint, "path_params": {}}
        return _ELSEWHERE

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def header(scope: Scope, name: bytes) -> str | None:
    """The first header called `name` (lower case); None: there is none."""
    for given, value in scope["headers"]:
        if given == name:
            text: str = value.decode("latin-1")
            return text
    return None
