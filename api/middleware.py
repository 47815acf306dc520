"""What every request passes: id, metrics, security headers, HEAD, the last handler of errors, the
body limit.

These are pure ASGI middlewares. A middleware that wraps responses in tasks would hide disconnects
from the routes.
"""

from __future__ import annotations

import re
import secrets
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import audit, errors
from api.fast_route import header
from contracts.errors import PayloadTooLarge
from contracts.ports.clock import Clock
from telemetry import logs, metrics, tracing
from telemetry.logs import get_logger

CLIENT_GONE: Final = 499
"""The status that is counted for a client that left before its answer. It is never sent."""

Header = tuple[bytes, bytes]
"""Name and value of a header."""
_DEFAULTS: Final[Sequence[Header]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
_UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

log = get_logger(__name__)


class RequestContext:
    """Gives each request an id, and counts, times and traces it.

    It answers HEAD as GET without a body. An unexpected error becomes a 500 in the usual error
    format. While the process ends (`leaving`), every answer closes its connection.
    """

    def __init__(self, app: ASGIApp, clock: Clock, leaving: Callable[[], bool]) -> None:
        self._app = app
        self._clock = clock
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and complete its answer as above."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        headless = method == "HEAD"
        request_id = _request_id(scope)
        scope = {**scope, "state": {**scope.get("state", {}), "request_id": request_id, "headless": headless}}
        if headless:
            scope["method"] = "GET"
        extra: dict[str, str] = {}
        scope["state"]["headers"] = extra  # headers that routes add to the answer, whatever it is
        started = self._clock.monotonic()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._leaving():
                    extra["Connection"] = "close"
                message["headers"] = _all_headers(message["headers"], request_id, extra)
            elif headless:
                message = {**message, "body": b""}
            await send(message)

        known = method if method in _METHODS else "other"
        with logs.bound(request_id=request_id), _traced(scope, known, request_id) as span:
            try:
                await self._app(scope, receive, answer)
            except ClientDisconnect:
                status = status or CLIENT_GONE
            except Exception as error:
                # The message of an unexpected error may hold a prompt. Only its type and place are logged.
                log.error(
                    "request_crashed",
                    error=type(error).__name__,
                    stack="".join(traceback.format_tb(error.__traceback__)),
                )
                if status:
                    raise
                await errors.internal(request_id)(scope, receive, answer)
            finally:
                route = getattr(scope.get("route"), "path", "unmatched")
                span.rename(f"{known} {route}")
                span.set({"http.route": route, "http.response.status_code": status})
                if status >= 500:
                    span.fail(str(status))
                audit.answered(scope, status)
                metrics.answered(known, route, status, self._clock.monotonic() - started)


class BodyLimit:
    """Refuses bodies over `limit` bytes: by their declared length before anything is read, else by counting.

    `others` are the limits of single paths. The path, the method and the API key are checked first.
    """

    def __init__(self, app: ASGIApp, limit: int, others: Mapping[str, int]) -> None:
        self._app = app
        self._limit = limit
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on. Reading a body that is too long raises `PayloadTooLarge` in its route."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._others.get(scope["path"], self._limit)
        declared = header(scope, b"content-length") or ""
        over = declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > limit)
        if over and scope["method"] not in _WITH_BODY:
            # The route of such a method reads no body. It would treat the error as a client that has left.
            await errors.response(_too_large(limit), errors.request_id_of(scope))(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            if over:
                raise _too_large(limit)
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    raise _too_large(limit)
            return message

        await self._app(scope, counted, send)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body must be at most {limit} bytes long.")


def _traced(scope: Scope, method: str, request_id: str) -> AbstractContextManager[tracing.Span]:
    """The request's span, below the caller's if it names one
    (https://opentelemetry.io/docs/specs/semconv/http/)."""
    if scope["path"] in _UNTRACED:
        return nullcontext(tracing.Span())
    return tracing.span(
        method,
        "server",
        parent=header(scope, b"traceparent"),
        attributes={"http.request.method": method, "darkroom.request_id": request_id},
    )


def _request_id(scope: Scope) -> str:
    given = header(scope, b"x-request-id") or ""
    return given if _SANE_ID.match(given) else f"req_{secrets.token_hex(12)}"


def _all_headers(headers: Iterable[Header], request_id: str, extra: Mapping[str, str]) -> list[Header]:
    """The `headers` of an answer. `extra` replaces those of the same name; defaults are added. Pure."""
    ours = {b"x-request-id": request_id.encode("latin-1")}
    for name, value in extra.items():
        ours[name.lower().encode("latin-1")] = value.encode("latin-1")
    kept = [pair for pair in headers if pair[0] not in ours]
    present = {name for name, _ in kept}
    defaults = [pair for pair in _DEFAULTS if pair[0] not in present and pair[0] not in ours]
    return [*kept, *ours.items(), *defaults]
