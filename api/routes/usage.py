"""`/v1/admin/usage`: the usage of each tenant on a day. For the operator."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from api.auth import Admin
from api.normalise import invalid
from api.routes.jobs import checked_tenant
from api.services import Wired, failures
from api.usage import day_of
from contracts.tenancy import TENANT_PATTERN
from contracts.usage import KEEP_DAYS
from views.job import Wire

router = APIRouter(prefix="/v1/admin", tags=["operation"])

DAY_PATTERN: Final = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"
_DAY = re.compile(DAY_PATTERN.replace("$", r"\Z"))


class TenantUsage(Wire):
    """The usage of one tenant."""

    tenant: str
    jobs: int = Field(default=0, description="Jobs accepted.")
    hits: int = Field(default=0, description="Accepted jobs that the cache answered.")
    joined: int = Field(default=0, description="Accepted jobs that joined another job's computation.")
    images: int = Field(default=0, description="Images of all jobs accepted.")
    steps: int = Field(
        default=0, description="Denoising steps of all images of the jobs that were to be computed."
    )
    refused: int = Field(default=0, description="Jobs refused, for any reason.")


class UsageView(Wire):
    """The usage on a UTC day.

    Tenants with the most steps come first. Counts of the last seconds may be missing.
    """

    day: str
    data: list[TenantUsage]


@router.get(
    "/usage",
    summary="Usage by tenant",
    response_class=Response,
    responses={200: {"model": UsageView}, **failures(401, 403, 422, 503)},
)
async def usage(
    services: Wired,
    _: Admin,
    day: Annotated[
        str | None,
        Query(
            description=f"A UTC day, by default today. {KEEP_DAYS} days are kept.",
            json_schema_extra={"pattern": DAY_PATTERN},
            examples=["2026-11-30"],
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        Query(description="Of this tenant only.", json_schema_extra={"pattern": TENANT_PATTERN}),
    ] = None,
) -> Response:
    """The jobs, images, denoising steps and refusals of each tenant. For operation, not for billing."""
    if day is not None and not _DAY.match(day):
        raise invalid([("day", "day must be a day of UTC, as 2026-11-30.")])
    if tenant is not None:
        checked_tenant(tenant)
    day = day or day_of(services.clock.now())
    await services.usage.flush()
    usages: dict[str, dict[str, int]] = defaultdict(dict)
    for (name, measure), count in (await services.stores.usage.of(day)).items():
        if tenant in (None, name):
            usages[name][measure] = count
    data = [TenantUsage(tenant=name, **counts) for name, counts in usages.items()]
    data.sort(key=lambda item: (-item.steps, -item.jobs, item.tenant))
    return Response(UsageView(day=day, data=data).model_dump_json(), media_type="application/json")
