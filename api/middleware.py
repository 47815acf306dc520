"""What happens to every request whatever its route: id, metrics, security headers, HEAD, the last catch, the body limit.

Pure ASGI: a middleware that wraps responses in tasks would hide disconnects from the routes.
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
from contracts.clock import Clock
from contracts.errors import PayloadTooLarge
from telemetry import logs, metrics, tracing
from telemetry.logs import get_logger

CLIENT_GONE: Final = 499
"""Counted for a client that left before its answer; never sent."""

Header = tuple[bytes, bytes]
_UNLESS_SAID: Final[Sequence[Header]] = (
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
    """Gives each request an id, counts, times and traces it, answers HEAD as GET without a body, and turns what nobody
    foresaw into a 500 in the error shape. While the process is `leaving`, every answer ends its connection."""

    def __init__(self, app: ASGIApp, clock: Clock, leaving: Callable[[], bool]) -> None:
        self._app = app
        self._clock = clock
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
        scope["state"]["headers"] = extra  # what routes want on the answer, whatever it turns out to be
        started = self._clock.monotonic()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._leaving():
                    extra["Connection"] = "close"
                message["headers"] = _whole(message["headers"], request_id, extra)
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
                # The message of an unforeseen error may repeat a prompt: its type and place must do.
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
    """Refuses bodies over `limit` bytes: by their declared length before anything is read, else while counting.
    `others` are the limits of single paths. An address that does not exist, a method and a key are judged first."""

    def __init__(self, app: ASGIApp, limit: int, others: Mapping[str, int]) -> None:
        self._app = app
        self._limit = limit
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._others.get(scope["path"], self._limit)
        declared = header(scope, b"content-length") or ""
        over = declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > limit)
        if over and scope["method"] not in _WITH_BODY:
            # Its route reads no body, and would take the error for a client that has left.
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
    """The request's span, under the caller's where it names one (https://opentelemetry.io/docs/specs/semconv/http/)."""
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


def _whole(headers: Iterable[Header], request_id: str, extra: Mapping[str, str]) -> list[Header]:
    """The headers of an answer with those that are ours to say, and those that it leaves unsaid. Pure."""
    ours = {b"x-request-id": request_id.encode("latin-1")}
    for name, value in extra.items():
        ours[name.lower().encode("latin-1")] = value.encode("latin-1")
    kept = [each for each in headers if each[0] not in ours]
    said = {name for name, _ in kept}
    unsaid = [each for each in _UNLESS_SAID if each[0] not in said and each[0] not in ours]
    return [*kept, *ours.items(), *unsaid]
