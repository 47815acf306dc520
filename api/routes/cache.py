"""`/v1/cache`: statistics of the result cache, and forgetting results. For the operator."""

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
"""The longest name of a model, revision or tenant in a query."""
_KEY = re.compile(r"[0-9a-f]{64}\Z")


class HotView(Wire):
    """The first level of the cache, in the memory of the process that answers."""

    entries: int
    hits: int


class CacheView(Wire):
    """Jobs by how the cache answered them, and what the cache holds.

    Memory and evictions are those of its whole server.
    """

    hits: int
    misses: int
    joined: int
    hit_rate: float | None = Field(description="Hits among all jobs; null before the first.")
    saved_rate: float | None = Field(
        description="Hits and joined jobs, which need no computation, among all jobs."
    )
    entries: int
    memory_bytes: int
    memory_limit_bytes: int | None
    evictions: int
    hot: HotView


class CachePurged(Wire):
    """How much was forgotten."""

    purged: int = Field(description="Results that were forgotten.")


@router.get("", summary="How the result cache does", responses=failures(401, 403, 503))
async def stats(services: Wired, _: Admin) -> CacheView:
    """Hits, size and evictions of all processes together.

    This counts the entries one by one: do not call it in a tight loop.
    """
    counts = await services.stores.results.stats()
    jobs = counts.hits + counts.misses + counts.joined
    return CacheView(
        hits=counts.hits,
        misses=counts.misses,
        joined=counts.joined,
        hit_rate=round(counts.hits / jobs, 4) if jobs else None,
        saved_rate=round((counts.hits + counts.joined) / jobs, 4) if jobs else None,
        entries=counts.entries,
        memory_bytes=counts.memory_bytes,
        memory_limit_bytes=counts.memory_limit_bytes or None,
        evictions=counts.evictions,
        hot=HotView(entries=counts.hot_entries, hits=counts.hot_hits),
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
    """Forget every result that matches all given parameters; at least one must be given.

    Images are not deleted. Jobs that run now still put their results into the cache.
    """
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
    # A given key is also forgotten if its result was just completed.
    await services.stores.jobs.forget_landed([*purged, *([key] if key else [])])
    return CachePurged(purged=len(purged))
