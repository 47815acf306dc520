"""FastAPI without the layers that do nothing here."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp


class Application(FastAPI):
    """A request passes our middleware, then the layers that turn errors into answers and close
    files, then the router."""

    def build_middleware_stack(self) -> ASGIApp:
        """The layers around the router.

        FastAPI would add three more, each of which costs every request a call and a wrapped `send`.
        We have our own: `RequestContext` catches what is left over and traces, `BodyLimit` limits
        bodies.
        """
        app: ASGIApp = ExceptionMiddleware(
            AsyncExitStackMiddleware(self.router), handlers=self.exception_handlers, debug=self.debug
        )
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        return app
