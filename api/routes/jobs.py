"""`/v1/jobs`: submit, read, list, cancel."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.auth import Reader, caller_of, look_into, owner_of
from api.body import job_request
from api.end_listener import EndListener
from api.fast_route import FastRoute, header
from api.idempotency import MAX_KEY_CHARS, REPLAYED
from api.job_request import JobRequest
from api.keyring import Principal
from api.long_poll import preferred_wait_s, watched
from api.normalise import invalid
from api.openapi import JOB_ID_PATTERN
from api.query import check_query
from api.routes.job_docs import AGAIN, APPLIED, BODY, CACHE, LOCATION, TENANT, Prefer
from api.schemas import JobList
from api.services import Services, Wired, failures
from api.similar import headers as similar_headers
from api.views import job_views, poll_again_s
from contracts.errors import JobNotFound, StoreUnavailable
from contracts.ids import is_job_id
from contracts.jobs import CacheStatus, Job, JobStatus
from contracts.tenancy import TENANT_PATTERN, is_tenant
from views.job import JobView, cache_word

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


async def submit(request: Request) -> Response:
    """Submit a job. Accepted jobs are never lost. Equal requests share one computation and its result."""
    if request.scope["query_string"]:
        check_query(request.scope, ())
    idempotency_key = header(request.scope, b"idempotency-key")
    if idempotency_key is not None and not 1 <= len(idempotency_key) <= MAX_KEY_CHARS:
        limit = f"at most {MAX_KEY_CHARS} characters" if idempotency_key else "at least 1 character"
        raise invalid([("idempotency-key", f"idempotency-key: String should have {limit}.")])
    services: Services = request.app.state.services
    caller = await caller_of(request, services)
    body = await job_request(request)
    prefer = [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"prefer"]
    if not preferred_wait_s(prefer, services.settings.max_wait_s):
        return await _submitted(request, services, caller, body, idempotency_key, prefer, None)
    async with services.waiters.listener() as listener:
        return await _submitted(request, services, caller, body, idempotency_key, prefer, listener)


async def _submitted(
    request: Request,
    services: Services,
    caller: Principal,
    body: JobRequest,
    idempotency_key: str | None,
    prefer: list[str],
    listener: EndListener | None,
) -> Response:
    if body.init_image is None:
        job, ahead = await services.jobs.submit(caller, body, idempotency_key, listener=listener)
    else:
        async with watched(request) as gone:
            job, ahead = await services.jobs.submit(caller, body, idempotency_key, gone, listener)
    location = {"Location": f"/v1/jobs/{job.id}", "X-Cache-Key": job.key}
    if job.cache is CacheStatus.HIT and not prefer:
        location |= {"X-Cache": cache_word(job), **similar_headers(job)}
        return Response(services.hit_bodies.body(job), 200, location, media_type="application/json")
    if REPLAYED in caller.headers and not prefer:
        # The first answer was 202. This one has the same status, and shows the job as it is.
        return await _answer(services, job, 202, location, ended=202)
    if listener is None:
        return await _answer(services, job, 202, location, ahead=ahead)
    try:
        return await _held(request, services, caller, job, prefer, 202, location, listener)
    except StoreUnavailable:
        # The job is accepted. A failed wait must not look like a refusal.
        return await _answer(services, job, 202, location)


@router.get(
    "",
    summary="List jobs",
    response_class=Response,
    responses={200: {"model": JobList}, **failures(401, 403, 422, 429, 503)},
)
async def list_jobs(
    request: Request,
    services: Wired,
    reader: Reader,
    limit: Annotated[int, Query(ge=1, le=100, description="Jobs on one page.")] = 20,
    after: Annotated[
        str | None,
        Query(
            description="The `next_cursor` of the page before.", json_schema_extra={"pattern": JOB_ID_PATTERN}
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        Query(
            description="Of this tenant, with a key of the scope `admin`.",
            json_schema_extra={"pattern": TENANT_PATTERN},
        ),
    ] = None,
) -> Response:
    """Your jobs, newest first."""
    look_into(request, reader, None if tenant is None else checked_tenant(tenant))
    if after is not None and not is_job_id(after):
        raise invalid([("after", "after must be the next_cursor of a page.")])
    jobs = await services.stores.jobs.list(tenant or reader.tenant, limit + 1, after)
    page = jobs[:limit]
    views = await job_views(page, services.stores.jobs, services.catalogue)
    answer = JobList(data=views, next_cursor=page[-1].id if len(jobs) > limit else None)
    return Response(answer.model_dump_json(), media_type="application/json")


@router.get(
    "/{job_id}",
    summary="Read a job",
    response_class=Response,
    responses={
        200: {"model": JobView, "headers": {**CACHE, **AGAIN, **APPLIED, **TENANT}},
        **failures(401, 403, 404, 410, 422, 429, 503),
    },
)
async def read(
    request: Request, services: Wired, reader: Reader, job_id: str, prefer: Prefer = None
) -> Response:
    """A job as it is now.

    With `Prefer: wait=N` the answer comes once the job has ended, or after N seconds. A key of the
    scope `admin` may read the jobs of all tenants.
    """
    tenant = await owner_of(request, services, reader, known(job_id))
    if not preferred_wait_s(prefer or [], services.settings.max_wait_s):
        return await _answer(services, await services.stores.jobs.get(tenant, job_id), 200, {})
    async with services.waiters.listener() as listener:
        await listener.listen(job_id)
        job = await services.stores.jobs.get(tenant, job_id)
        listener.note(job)
        return await _held(request, services, reader, job, prefer or [], 200, {}, listener)


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job",
    response_class=Response,
    responses={200: {"model": JobView, "headers": TENANT}, **failures(401, 403, 404, 410, 422, 503)},
)
async def cancel(request: Request, services: Wired, reader: Reader, job_id: str) -> Response:
    """End a job before its batch runs.

    A job that has ended stays as it is, so a second call does no harm. A key of the scope `admin`
    may cancel the jobs of all tenants.
    """
    tenant = await owner_of(request, services, reader, known(job_id))
    job = await services.jobs.cancel(tenant, job_id)
    return await _answer(services, job, 200, {})


async def _held(
    request: Request,
    services: Services,
    caller: Principal,
    job: Job,
    prefer: list[str],
    pending: int,
    headers: dict[str, str],
    listener: EndListener | None,
) -> Response:
    wait_s = preferred_wait_s(prefer, services.settings.max_wait_s)
    if wait_s:
        if not job.status.terminal:
            waited = await services.waiters.until_terminal(
                request, job.tenant, job.id, wait_s, caller.holder, listener
            )
            if waited is None:
                return await _answer(services, job, pending, headers)
            job = waited
        headers = {**headers, "Preference-Applied": f"wait={wait_s}"}
    return await _answer(services, job, pending, headers)


async def _answer(
    services: Services,
    job: Job,
    pending: int,
    headers: dict[str, str],
    ended: int = 200,
    ahead: int | None = None,
) -> Response:
    counted = {} if ahead is None or job.status is not JobStatus.QUEUED else {job.id: ahead}
    (view,) = await job_views([job], services.stores.jobs, services.catalogue, counted)
    headers = {**headers, "X-Cache": cache_word(job), **similar_headers(job)}
    if job.status.terminal:
        return Response(view.model_dump_json(), ended, headers, media_type="application/json")
    headers = {**headers, "Retry-After": str(poll_again_s(view))}
    return Response(view.model_dump_json(), pending, headers, media_type="application/json")


def checked_tenant(tenant: str) -> str:
    """`tenant`, if it is a valid name of a tenant. Raises `InvalidRequest`."""
    if not is_tenant(tenant):
        raise invalid(
            [("tenant", "tenant must be 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit.")]
        )
    return tenant


def known(job_id: str) -> str:
    """`job_id`, if it has the form of a job id. Raises `JobNotFound`."""
    if not is_job_id(job_id):
        raise JobNotFound("There is no such job.")
    return job_id


direct = FastRoute(
    router.prefix,
    submit,
    methods=["POST"],
    tags=["jobs"],
    summary="Submit a job",
    status_code=202,
    openapi_extra=BODY,
    response_class=Response,
    responses={
        200: {
            "model": JobView,
            "description": "Ended already.",
            "headers": {**LOCATION, **CACHE, **APPLIED},
        },
        202: {
            "model": JobView,
            "description": "Accepted.",
            "headers": {**LOCATION, **CACHE, **AGAIN, **APPLIED},
        },
        **failures(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
    },
)
"""`POST /v1/jobs`, before all other routes. The framework's way to an endpoint would cost more than
a cache hit."""
