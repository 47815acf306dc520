"""From any exception to the one error format of the API. Only this module maps errors to HTTP."""

from __future__ import annotations

import difflib
import http
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from api.job_request import EXPECTED
from api.normalise import invalid
from contracts.errors import (
    DarkroomError,
    GenerationFailed,
    InternalError,
    InvalidApiKey,
    JobCanceled,
    MethodNotAllowed,
    PermissionDenied,
    RequestError,
    RouteNotFound,
    Unauthenticated,
)
from scheduler.bounds import Fault

MAX_NAME_CHARS = 64
"""The most characters of a client's own name for something that an answer repeats."""
LEFT_OUT = "left out"
"""The first words for a field that is known and refused. Such a field is not suggested when another
is misspelt."""
UNFORESEEN = "Something went wrong on our side. It has been logged."
"""The message of an error that is not a `DarkroomError`."""
_FINAL = frozenset({JobCanceled.status, GenerationFailed.status})


def install(app: FastAPI, queries: Mapping[str, Mapping[str, str]]) -> None:
    """Install the handlers of expected errors in `app`.

    `queries` says by path what each parameter of a route must be, in words. Other routes share the words for a job.
    `api.middleware.RequestContext` catches all others.
    """

    async def darkroom(request: Request, error: Exception) -> Response:
        if not isinstance(error, DarkroomError):
            raise error
        return response(error, request_id_of(request.scope))

    async def validation(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        # The first part of a location is where the value came from: query, path.
        expected = queries.get(request.scope["route"].path, EXPECTED)
        faults = faults_of([{**fault, "loc": tuple(fault["loc"])[1:]} for fault in error.errors()], expected)
        return response(invalid(faults), request_id_of(request.scope))

    async def http_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        if error.status_code == 405:
            # The framework names only the methods of the first route at this address.
            error.headers = {"Allow": ", ".join(_allowed(request))}
        return from_http(error, request.method, request_id_of(request.scope))

    app.add_exception_handler(DarkroomError, darkroom)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http_error)


def _allowed(request: Request) -> list[str]:
    """The methods that the address allows: those in the OpenAPI document, else those of every route
    that matches."""
    app, methods = request.app, ("GET", "POST", "PUT", "PATCH", "DELETE")
    described = app.openapi()["paths"].get(request.url.path)
    if described is not None:
        return [method for method in methods if method.lower() in described]
    return [
        method
        for method in methods
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in app.router.routes
        )
    ]


def request_id_of(scope: Mapping[str, Any]) -> str:
    """The id that the middleware gave the request."""
    request_id: str = scope.get("state", {}).get("request_id", "")
    return request_id


def response(error: DarkroomError, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to `error`. It has a `Retry-After` in whole seconds if the error says when to come again."""
    all_headers = dict(headers or {})
    if error.retry_after_s is not None:
        all_headers["Retry-After"] = str(whole_retry_after_s(error.retry_after_s))
    if challenge := _challenge(error):
        all_headers["WWW-Authenticate"] = challenge
    if error.status in _FINAL:
        # OpenAI's clients would retry these by default.
        all_headers["X-Should-Retry"] = "false"
    return _render(error.status, body(error, request_id), all_headers)


def whole_retry_after_s(seconds: float) -> int:
    """`seconds` as `Retry-After` gives them: whole, and at least 1."""
    return max(1, math.ceil(seconds))


def _challenge(error: DarkroomError) -> str | None:
    """The value of `WWW-Authenticate` (RFC 6750 section 3); None: the error needs none."""
    match error:
        case InvalidApiKey():
            return 'Bearer realm="darkroom", error="invalid_token"'
        case Unauthenticated():
            return 'Bearer realm="darkroom"'
        case PermissionDenied():
            return 'Bearer realm="darkroom", error="insufficient_scope"'
    return None


def body(error: DarkroomError, request_id: str) -> dict[str, Any]:
    """The JSON of `error`, in the format that all errors have."""
    return _body(error.code, error.message, error.type, request_id, error.param, error.details)


def internal(request_id: str) -> Response:
    """The answer to an unexpected error. It says nothing about the cause."""
    return response(InternalError(UNFORESEEN), request_id)


def from_http(error: HTTPException, method: str, request_id: str) -> Response:
    """The answer to an error of the web framework: no such route, wrong method, or a bare status."""
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return response(RouteNotFound("There is nothing at this address."), request_id, headers)
    if error.status_code == 405:
        allowed = headers.get("allow") or headers.get("Allow") or "another method"
        message = f"{method} is not allowed here; {allowed} is."
        return response(MethodNotAllowed(message), request_id, headers)
    code = http.HTTPStatus(error.status_code).phrase.lower().replace(" ", "_").replace("-", "_")
    kind = RequestError.type if error.status_code < 500 else DarkroomError.type
    return _render(error.status_code, _body(code, str(error.detail), kind, request_id), headers)


def faults_of(errors: list[dict[str, Any]], expected: Mapping[str, str] = EXPECTED) -> list[Fault]:
    """Pydantic's list of errors in our words: one fault for each field, in the same order.

    `expected` says what each field must be.
    """
    faults: dict[str, str] = {}
    for error in errors:
        name = printable(_name(error["loc"]))
        faults.setdefault(name, _sentence(name, error, expected))
    return list(faults.items())


def _name(location: Sequence[Any]) -> str:
    # After the name of a field comes a place in it, or the type that was tried. Only objects have
    # inner names.
    inner = location[1:2] if location and location[0] in ("webhook", "lora", "metadata") else ()
    return ".".join(str(part) for part in (*location[:1], *inner))


def _sentence(name: str, error: Mapping[str, Any], expected: Mapping[str, str]) -> str:
    match error["type"]:
        case "missing":
            return f"{name} is required."
        case "extra_forbidden" | "invalid_key":
            return unknown(name, "field", _siblings(name, expected))
        case _ if not name:
            return "The body must be a JSON object."
        case _ if name in expected:
            return f"{name} must be {expected[name]}."
        case _:
            return f"{name}: {error['msg']}."


def unknown(name: str, kind: str, known: Sequence[str]) -> str:
    """The message for a `name` that should be one of `known`; `kind` is what it names. Pure."""
    if not known:
        return f"{name} is not a known {kind}; there is none here."
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{name} is not a known {kind}; known are {', '.join(known)}.{hint}"


def _siblings(name: str, expected: Mapping[str, str]) -> list[str]:
    """The known fields beside `name`: those of the object that holds it, else those of the body."""
    inside = f"{name.partition('.')[0]}."
    return [known for known in expected if known.startswith(inside)] or [
        known for known, words in expected.items() if "." not in known and not words.startswith(LEFT_OUT)
    ]


def printable(text: str) -> str:
    """`text` of a client, shortened and with printable characters only, so that an answer can
    repeat it.

    Pure.
    """
    # Clients choose the names of unknown fields. They may be long, or hold what UTF-8 cannot encode.
    cut = text[:MAX_NAME_CHARS].encode("utf-8", "replace").decode("utf-8")
    return "".join(character if character.isprintable() else "?" for character in cut)


def _body(
    code: str,
    message: str,
    kind: str,
    request_id: str,
    param: str | None = None,
    details: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "error": {
            "code": code,
            "message": message,
            "type": kind,
            "param": param,
            "request_id": request_id,
            "details": details,
        }
    }


def _render(status: int, content: dict[str, Any], headers: dict[str, str]) -> Response:
    # ASCII with escapes can encode every message.
    return Response(json.dumps(content), status, headers, media_type="application/json")
