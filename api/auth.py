"""The key of a request as a dependency of routes: `Caller` for those who make pictures, `Admin` for those who rule.

A route that takes one is closed to others. Those that take none are open: health, metrics, the page, and pictures, whose
names are capabilities (docs/adr/0010-pictures-are-capabilities.md).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from api.direct import header
from api.keyring import Principal
from api.services import Services, Wired
from contracts.tenancy import Scope

_bearer = HTTPBearer(auto_error=False, description="An API key, `dk_...`.", scheme_name="bearer")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same.", scheme_name="header")


def _address(request: Request) -> str:
    client = request.scope.get("client")
    return "" if client is None else str(client[0])


async def _principal(
    request: Request,
    services: Wired,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> Principal:
    token = bearer.credentials if bearer is not None else header
    return await services.keyring.principal(token, request.state.headers, _address(request))


async def _caller(
    request: Request, services: Wired, principal: Annotated[Principal, Depends(_principal)]
) -> Principal:
    principal.require(Scope.GENERATE)
    if request.method == "GET":
        services.read_rate.charge(principal.holder)
    return principal


async def caller_of(request: Request, services: Services) -> Principal:
    """What `Caller` resolves to, for the one route that cannot afford to have it resolved: a cache hit costs half as much."""
    scope = request.scope
    bearer = None if header(scope, b"authorization") is None else await _bearer(request)
    token = header(scope, b"x-api-key") or None if bearer is None else bearer.credentials
    principal = await services.keyring.principal(token, scope["state"]["headers"], _address(request))
    principal.require(Scope.GENERATE)
    return principal


async def _admin(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
    principal.require(Scope.ADMIN)
    return principal


Caller = Annotated[Principal, Depends(_caller)]
Admin = Annotated[Principal, Depends(_admin)]
