"""Who makes a request, as a dependency of routes: an API key, or a person who has signed in.

`Caller` needs the scope `generate`, `Admin` the scope `admin`, `Reader` either, `Moderator` the scope `moderate`. A route with one of
these dependencies refuses other callers. `Admin` and `Moderator` also take the session of a person, where the
request has no key. Routes without one are open: health, metrics, the
playground, and images, whose names are capabilities (docs/adr/0010-pictures-are-capabilities.md).
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from api import audit
from api.fast_route import header
from api.keyring import Principal, principal_of
from api.services import Services, Wired
from contracts.errors import RequestError, Unauthenticated
from contracts.tenancy import Scope, id_of, is_token

TENANT_HEADER: Final = "X-Tenant"
"""The header that names the tenant of a job, if an administrator asks for a job of another tenant."""

_bearer = HTTPBearer(auto_error=False, description="An API key, `dk_...`.", scheme_name="bearer")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same.", scheme_name="header")


PROXY_HEADERS: Final = frozenset(
    (b"x-forwarded-for", b"forwarded", b"x-real-ip", b"x-forwarded-host", b"via")
)
"""Headers that a proxy adds to a request (RFC 7239, RFC 9110 section 7.6.3, and custom)."""


def _proxied(request: Request) -> bool:
    return any(name in PROXY_HEADERS for name, _ in request.scope["headers"])


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
    return await _known(services, token, request)


async def _operator(
    request: Request,
    services: Wired,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> Principal:
    token = bearer.credentials if bearer is not None else header
    if token is None and services.sign_in is not None:
        session = await services.sign_in.session(request)
        if session is not None:
            return principal_of(session, request.scope["state"]["headers"], _address(request))
    return await _known(services, token, request)


async def _caller(
    request: Request, services: Wired, principal: Annotated[Principal, Depends(_principal)]
) -> Principal:
    _require(principal, Scope.GENERATE)
    _charge_read(request, services, principal)
    return principal


async def caller_of(request: Request, services: Services) -> Principal:
    """The same as `Caller`, without the framework's resolving of dependencies.

    With it a cache hit would cost twice as much. Raises `RequestError`, `StoreUnavailable`.
    """
    scope = request.scope
    bearer = None if header(scope, b"authorization") is None else await _bearer(request)
    token = header(scope, b"x-api-key") or None if bearer is None else bearer.credentials
    principal = await _known(services, token, request)
    _require(principal, Scope.GENERATE)
    return principal


async def _reader(
    request: Request, services: Wired, principal: Annotated[Principal, Depends(_principal)]
) -> Principal:
    if not principal.rules:
        _require(principal, Scope.GENERATE)
    _charge_read(request, services, principal)
    return principal


def _charge_read(request: Request, services: Services, principal: Principal) -> None:
    if request.method == "GET":
        services.read_rate.charge(principal.holder)


async def _admin(request: Request, principal: Annotated[Principal, Depends(_operator)]) -> Principal:
    _require(principal, Scope.ADMIN)
    audit.admin_call(request, principal)
    return principal


async def _moderator(request: Request, principal: Annotated[Principal, Depends(_operator)]) -> Principal:
    _require(principal, Scope.MODERATE)
    audit.admin_call(request, principal)
    return principal


async def _known(services: Services, token: str | None, request: Request) -> Principal:
    try:
        return await services.keyring.principal(
            token, request.scope["state"]["headers"], _address(request), proxied=_proxied(request)
        )
    except Unauthenticated as error:
        audit.key_refused(error, id_of(token) if token is not None and is_token(token) else None)
        raise


def _require(principal: Principal, scope: Scope) -> None:
    try:
        principal.require(scope)
    except RequestError as error:
        audit.key_refused(error, principal.key_id, principal.tenant)
        raise


async def owner_of(request: Request, services: Services, reader: Principal, job_id: str) -> str:
    """The tenant whose job `reader` may look at: its own; for an administrator that of the job,
    which the answer then names. Raises `RequestError`, `StoreUnavailable`."""
    if not reader.rules:
        return reader.tenant
    owner = await services.stores.jobs.owner(job_id) or reader.tenant
    look_into(request, reader, owner)
    return owner


def look_into(request: Request, reader: Principal, tenant: str | None) -> None:
    """Check that `reader` may see the jobs of `tenant` (None: its own).

    What only an administrator may see goes into the audit trail. Raises `RequestError`.
    """
    own = tenant in (None, reader.tenant)
    if own and (reader.key is None or tenant is None or Scope.GENERATE in reader.key.scopes):
        _require(reader, Scope.GENERATE)
        return
    _require(reader, Scope.ADMIN)
    whose = tenant or reader.tenant
    audit.admin_call(request, reader, tenant=whose)
    reader.headers[TENANT_HEADER] = whose


Caller = Annotated[Principal, Depends(_caller)]
"""A caller who may submit jobs."""
Reader = Annotated[Principal, Depends(_reader)]
"""A caller who may look at jobs: with the scope `generate` at those of its tenant, with `admin` at all."""
Moderator = Annotated[Principal, Depends(_moderator)]
"""A key or a person with the scope `moderate`."""
Admin = Annotated[Principal, Depends(_admin)]
"""A key or a person with the scope `admin`."""
