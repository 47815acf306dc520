"""`/v1/cache`: what the result cache does, and how to make it forget. For the operator."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import Field

from api.auth import Admin
from api.normalise import invalid
from api.services import Wired, failures
from cache.cache_key import result_pattern, tenant_scope
from scheduler.bounds import Fault
from views.job import Wire

router = APIRouter(prefix="/v1/cache", tags=["operation"])

MAX_NAME_CHARS: Final = 200
_KEY = re.compile(r"[0-9a-f]{64}\Z")


class HotView(Wire):
    """The first level, in the memory of the process that answers."""

    entries: int
    hits: int


class CacheView(Wire):
    """Jobs by how the cache took them, and what it holds. Memory and evictions are those of its whole server."""

    hits: int
    misses: int
    joined: int
    hit_rate: float | None = Field(description="Hits among all jobs; null before the first.")
    saved_rate: float | None = Field(
        description="Hits and joined, which cost no computation, among all jobs."
    )
    entries: int
    memory_bytes: int
    memory_limit_bytes: int | None
    evictions: int
    hot: HotView


class CachePurged(Wire):
    purged: int = Field(description="Results that were forgotten.")


@router.get("", summary="How the result cache does", responses=failures(401, 403, 503))
async def stats(services: Wired, _: Admin) -> CacheView:
    """Hits, size and evictions, of all processes together. Counts the entries one by one: not for a tight loop."""
    found = await services.stores.results.stats()
    jobs = found.hits + found.misses + found.joined
    return CacheView(
        hits=found.hits,
        misses=found.misses,
        joined=found.joined,
        hit_rate=round(found.hits / jobs, 4) if jobs else None,
        saved_rate=round((found.hits + found.joined) / jobs, 4) if jobs else None,
        entries=found.entries,
        memory_bytes=found.memory_bytes,
        memory_limit_bytes=found.memory_limit_bytes or None,
        evictions=found.evictions,
        hot=HotView(entries=found.hot_entries, hits=found.hot_hits),
    )


@router.delete("", summary="Forget results", responses=failures(401, 403, 422, 503))
async def purge(
    services: Wired,
    _: Admin,
    key: Annotated[str | None, Query(description="The `X-Cache-Key` of a job: 64 hex digits.")] = None,
    model: Annotated[str | None, Query(description="A model; all its revisions without `revision`.")] = None,
    revision: Annotated[str | None, Query(description="A revision of a model.")] = None,
    tenant: Annotated[str | None, Query(description="A tenant.")] = None,
) -> CachePurged:
    """Forget every result that matches all that is named; at least one thing must be. Pictures stay where they are, and jobs that
    run now put their results in as ever."""
    faults: list[Fault] = [
        (name, f"{name} must be between 1 and {MAX_NAME_CHARS} characters long.")
        for name, value in (("model", model), ("revision", revision), ("tenant", tenant))
        if value is not None and not 0 < len(value) <= MAX_NAME_CHARS
    ]
    if key is not None and not _KEY.match(key):
        faults.append(("key", "key must be 64 hexadecimal digits."))
    if key is model is revision is tenant is None:
        faults.append(("key", "One of key, model, revision and tenant must be given."))
    if faults:
        raise invalid(faults)
    shared = services.settings.share_cache_between_tenants
    scope = None if tenant is None else tenant_scope(tenant, shared)
    real = None if model is None else services.catalogue.real_name(model)
    pattern = result_pattern(key=key, scope=scope, model=real, revision=revision)
    purged = await services.stores.results.purge(pattern)
    # A key by name is forgotten also where it has only just landed.
    await services.stores.jobs.forget_landed([*purged, *([key] if key else [])])
    return CachePurged(purged=len(purged))
