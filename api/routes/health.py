"""For operators: liveness, readiness, and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from api import scrape_gauges
from api.schemas import Health, Ready
from api.services import Wired, failures
from contracts.errors import UnavailableError

router = APIRouter(tags=["operation"])


@router.get("/healthz", summary="Is the process alive?", responses=failures())
async def healthz() -> Health:
    """Checks no other service: an unavailable broker is no reason to restart this process."""
    return Health()


@router.get("/readyz", summary="Can it take jobs?", responses=failures(503))
async def readyz(services: Wired) -> Ready:
    """Checks broker and Redis. 503 if one is unavailable (`details.checks` names it), or if the
    process ends."""
    if services.leaving:
        raise UnavailableError("Not ready: the process ends.")
    timeout_s = max(services.settings.publish_timeout_s, services.settings.redis_timeout_s)
    broker, store = await asyncio.gather(
        _outcome(services.publisher.check(), timeout_s), _outcome(services.stores.check(), timeout_s)
    )
    checks = {"broker": broker, "store": store}
    away = [part for part, outcome in checks.items() if outcome != "ok"]
    if away:
        raise UnavailableError(f"Not ready: {' and '.join(away)}.", details={"checks": checks})
    return Ready(checks=checks)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **failures()},
)
async def scrape(services: Wired) -> Response:
    """The metrics of this process, and gauges of the queues and stores that are read now."""
    await scrape_gauges.refresh(
        services.stores, services.catalogue, services.jobs.room.memory, services.clock.now()
    )
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _outcome(check: Awaitable[None], timeout_s: float) -> str:
    try:
        async with asyncio.timeout(timeout_s):
            await check
    except UnavailableError as error:
        return error.message
    except TimeoutError:
        return f"No answer within {timeout_s:g} s."
    return "ok"
