"""A route whose endpoint takes the bare request. It skips the framework's matching, exit stacks and
resolving of parameters.

It is for an endpoint that costs less than these. The framework documents it like any other route.
"""

from __future__ import annotations

from typing import Final

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

_ELSEWHERE: Final[tuple[Match, Scope]] = (Match.NONE, {})


class FastRoute(APIRoute):
    """Takes one method at exactly its path. All other requests go to the routes after it.

    Its endpoint takes only the request, and returns a response. The usual handlers around the
    router answer errors.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """A full match for its method and path, else none."""
        if scope["type"] == "http" and scope["path"] == self.path and scope["method"] in (self.methods or ()):
            return Match.FULL, {"route": self, "endpoint": self.endpoint, "path_params": {}}
        return _ELSEWHERE

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the endpoint, and send its response."""
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def header(scope: Scope, name: bytes) -> str | None:
    """The value of the first header called `name` (lower case); None: there is none."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None
