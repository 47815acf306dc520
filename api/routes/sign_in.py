"""`/sign-in`, `/sign-out` and `/session`: how a person gets a session, for the pages of reviewers and operators."""

from __future__ import annotations

import html
from typing import Final

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from api import audit
from api.errors import whole_retry_after_s
from api.routes.page import POLICY
from api.services import Wired
from api.sign_in import BEGIN, CALLBACK, SignIn
from contracts.errors import DarkroomError, SessionEnded, SignInRefused, SignInUnavailable, StoreUnavailable
from telemetry import metrics

router = APIRouter(include_in_schema=False)

HOME: Final = "/review"
"""Where a person goes who has signed in."""
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark light">
<meta name="robots" content="noindex">
<title>Sign in · Darkroom</title>
<link rel="icon" href="/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/playground.css">
</head>
<body>
<header><p class="brand"><a href="/"><img src="/static/icon.svg" alt="" width="28" height="28">Darkroom</a></p></header>
<main>
<h1>You are not signed in</h1>
<p role="alert">{message}</p>
<p><a href="/sign-in">Sign in</a> · <a href="/review">Use an API key</a></p>
</main>
</body>
</html>
"""


@router.get(BEGIN)
async def begin(services: Wired) -> Response:
    """Send the browser to the OpenID provider."""
    sign_in = _offered(services.sign_in)
    answer = RedirectResponse(HOME, 303)
    try:
        answer.headers["Location"] = await sign_in.begin(answer)
    except SignInUnavailable as error:
        return _told(error)
    return answer


@router.get(CALLBACK)
async def complete(request: Request, services: Wired) -> Response:
    """Where the provider sends the browser back to: with a session, or to a page that says why there is none."""
    sign_in = _offered(services.sign_in)
    answer: Response = RedirectResponse(HOME, 303)
    try:
        session = await sign_in.complete(request, answer)
    except (SignInRefused, SignInUnavailable, StoreUnavailable) as error:
        answer = _told(error)
    else:
        audit.signed_in(session)
        metrics.SIGN_INS.labels("done").inc()
    sign_in.forget_attempt(answer)
    return answer


@router.post("/sign-out")
async def end(request: Request, services: Wired) -> Response:
    """End the session. The provider's own session goes on."""
    sign_in = _offered(services.sign_in)
    sign_in.require_own_page(request)
    answer = Response(None, 204)
    await sign_in.end(request, answer)
    return answer


@router.get("/session")
async def session(request: Request, services: Wired) -> Response:
    """Where people sign in, if they may, and who has, for the pages."""
    sign_in = services.sign_in
    try:
        known = None if sign_in is None else await sign_in.session(request)
    except SessionEnded:
        known = None
    person = known and {"name": known.name, "scopes": list(known.scopes), "ends_at": known.ends_at}
    return JSONResponse({"sign_in": sign_in and sign_in.address, "person": person})


def _offered(sign_in: SignIn | None) -> SignIn:
    if sign_in is None:
        raise HTTPException(404)
    return sign_in


def _told(error: DarkroomError) -> Response:
    """A page that says what went wrong, and nothing of what the provider has sent."""
    refused = isinstance(error, SignInRefused)
    cause = error.cause if isinstance(error, SignInRefused | SignInUnavailable) else "store"
    metrics.SIGN_INS.labels("refused" if refused else "unavailable").inc()
    audit.sign_in_failed(error.code, cause)
    headers = {"Content-Security-Policy": POLICY}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(whole_retry_after_s(error.retry_after_s))
    return HTMLResponse(_PAGE.format(message=html.escape(error.message)), error.status, headers)
