"""`/v1/keys`: API keys, for callers with the scope `admin`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from api.auth import Admin
from api.body import checked
from api.normalise import invalid
from api.services import Wired, failures
from contracts.errors import KeyNotFound
from contracts.tenancy import (
    ID_CHARS,
    RESERVED_TENANTS,
    TENANT_PATTERN,
    ApiKey,
    Limits,
    Scope,
    digest_of,
    id_of,
    new_token,
)
from views.job import Wire

router = APIRouter(prefix="/v1/keys", tags=["keys"])

MAX_NAME_CHARS: Final = 100
"""The longest name of a key."""


Scopes = Annotated[
    tuple[Literal["generate", "moderate", "admin"], ...], Field(strict=False, min_length=1, max_length=3)
]


class KeyRequest(Limits):
    """The body of `POST /v1/keys`. A limit that is left out or null does not limit."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={"examples": [{"tenant": "acme", "name": "shop", "requests_per_minute": 60}]},
    )

    tenant: str = Field(
        pattern=TENANT_PATTERN, description="The tenant of the key. Keys of one tenant see the same jobs."
    )
    name: str = Field(default="", max_length=MAX_NAME_CHARS, description="What it is for, in your words.")
    scopes: Scopes = ("generate",)


EXPECTED: Final = {
    "tenant": "1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit",
    "name": f"a string of at most {MAX_NAME_CHARS} characters",
    "scopes": 'a list of "generate", "moderate" and "admin"',
    "requests_per_minute": "a number above 0, at most 1000000",
    "burst": "an integer from 1 to 1000000",
    "concurrent_jobs": "an integer from 1 to 10000",
    "queued_jobs": "an integer from 1 to 10000",
    "images_per_day": "an integer from 1 to 1000000000",
    "weight": "a number above 0, at most 1000",
    "priorities": 'a list of "interactive" and "batch"',
}
"""What each field of `KeyRequest` must be, in the words of an error message."""


class KeyView(Wire):
    """A key without its secret. `id` is the beginning of the key. Times are Unix seconds."""

    id: str
    name: str
    tenant: str
    scopes: list[Scope]
    limits: Limits
    created_at: float
    revoked_at: float | None


class NewKeyView(KeyView):
    """A new key, with its secret."""

    key: str = Field(description="The key itself. It is not kept, and not shown again.")


class KeyList(Wire):
    """API keys, newest first."""

    data: list[KeyView]


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": KeyRequest.model_json_schema()}},
    }
}


async def _key_request(request: Request) -> KeyRequest:
    return await checked(request, KeyRequest, EXPECTED)


@router.post(
    "",
    summary="Create a key",
    status_code=201,
    openapi_extra=_BODY,
    response_class=Response,
    responses={
        201: {"model": NewKeyView, "description": "Created. The only answer that holds the key."},
        **failures(400, 401, 403, 408, 413, 415, 422, 503),
    },
)
async def create(services: Wired, _: Admin, body: Annotated[KeyRequest, Depends(_key_request)]) -> Response:
    """Create an API key for a tenant. Tenants have no other record: a tenant exists once a key names it."""
    limits = Limits.model_validate(body.model_dump(include=set(Limits.model_fields)))
    if not body.name.isprintable():
        raise invalid([("name", "name must hold printable characters only.")])
    if body.tenant in RESERVED_TENANTS:
        raise invalid([("tenant", f"tenant must be another name: {body.tenant} is the platform's own.")])
    while True:
        token = new_token()
        key = ApiKey(
            id=id_of(token),
            name=body.name,
            tenant=body.tenant,
            digest=digest_of(token),
            scopes=tuple(Scope(scope) for scope in dict.fromkeys(body.scopes)),
            limits=limits,
            created_at=services.clock.now(),
        )
        if await services.stores.keys.create(key):
            break
    view = NewKeyView(**_view(key).model_dump(), key=token)
    return Response(view.model_dump_json(), 201, media_type="application/json")


@router.get(
    "",
    summary="List keys",
    response_class=Response,
    responses={200: {"model": KeyList}, **failures(401, 403, 422, 503)},
)
async def list_keys(
    services: Wired,
    _: Admin,
    tenant: Annotated[str | None, Query(max_length=63, description="Of this tenant only.")] = None,
) -> Response:
    """Every key, newest first, revoked ones too."""
    keys = await services.stores.keys.list()
    answer = KeyList(data=[_view(key) for key in keys if tenant in (None, key.tenant)])
    return Response(answer.model_dump_json(), media_type="application/json")


@router.delete(
    "/{key_id}",
    summary="Revoke a key",
    response_class=Response,
    responses={200: {"model": KeyView}, **failures(401, 403, 404, 422, 503)},
)
async def revoke(services: Wired, _: Admin, key_id: str) -> Response:
    """Revoke a key for good.

    It takes effect within two seconds. Its jobs go on. A second call does no harm.
    """
    if len(key_id) != ID_CHARS or not key_id.isascii():
        raise KeyNotFound("There is no API key of that id.")
    key = await services.stores.keys.revoke(key_id, services.clock.now())
    return Response(_view(key).model_dump_json(), media_type="application/json")


def _view(key: ApiKey) -> KeyView:
    return KeyView(
        id=key.id,
        name=key.name,
        tenant=key.tenant,
        scopes=list(key.scopes),
        limits=key.limits,
        created_at=key.created_at,
        revoked_at=key.revoked_at,
    )
