"""A short way to one endpoint: past the framework's matching, its exit stacks and its resolving of parameters.

For a route whose own work costs less than these. It is registered with the framework as well, which describes it and takes
what does not come this way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]

_ELSEWHERE: Final[tuple[Match, Scope]] = (Match.NONE, {})


class Direct(BaseRoute):
    """Takes `method` at exactly `path`. Errors are answered as everywhere, by the handlers around the router."""

    def __init__(self, method: str, path: str, endpoint: Endpoint) -> None:
        self.path = path
        self._method = method
        self._endpoint = endpoint
        self._here = Match.FULL, {"route": self, "endpoint": endpoint, "path_params": {}}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["path"] == self.path and scope["method"] == self._method:
            return self._here
        return _ELSEWHERE

    def url_path_for(self, name: str, /, **path_params: object) -> NoMatchFound:  # type: ignore[override]
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def header(scope: Scope, name: bytes) -> str | None:
    """The first header called `name` (lower case); None: there is none."""
    for given, value in scope["headers"]:
        if given == name:
            text: str = value.decode("latin-1")
            return text
    return None
