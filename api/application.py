"""FastAPI, without those of its layers that do nothing here."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp


class Application(FastAPI):
    """Every request passes our own middleware, then what turns errors into answers and closes files, then the router."""

    def build_middleware_stack(self) -> ASGIApp:
        """FastAPI puts three layers more around ours: a last catch, which `RequestContext` is; traces, which it makes; and a limit of
        bodies, which `BodyLimit` is. Each costs every request a call and a wrapped `send`."""
        app: ASGIApp = ExceptionMiddleware(
            AsyncExitStackMiddleware(self.router), handlers=self.exception_handlers, debug=self.debug
        )
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        return app
