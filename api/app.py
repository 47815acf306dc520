"""The application, with all its parts connected.

Constructing it does no I/O. Its lifespan starts and ends the background tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import Depends, FastAPI
from fastapi.routing import iter_route_contexts

from api import errors
from api.application import Application
from api.browsers import BrowserGuard
from api.catalogue import Catalogue
from api.early_answers import EarlyAnswers
from api.imports import Imports
from api.init_image import longest_text
from api.keyring import KeyRing
from api.long_poll import Waiters
from api.middleware import BodyLimit, RequestContext
from api.moderation import PromptJudge, Prompts
from api.pictures.decoders import Decoders
from api.provenance import ProvenanceReader
from api.query import known_query
from api.read_limits import ReadRate, Shares
from api.routes import (
    appeals,
    batch,
    cache,
    events,
    health,
    images,
    jobs,
    keys,
    models,
    openai,
    page,
    reference,
    reviews,
    search_images,
    sessions,
    sign_in,
    webhooks,
)
from api.routes import provenance as provenance_routes
from api.routes import search as search_routes
from api.routes import usage as usage_routes
from api.search import EXPECTED as SEARCH_EXPECTED
from api.search import SearchClient
from api.services import Services
from api.sign_in import opened as opened_sign_in
from api.stream import Streams
from api.submit import JobService
from api.usage import Usage
from broker.sweeper import Sweeper
from contracts.ports.clock import Clock
from contracts.ports.dead_letters import DeadLetters
from contracts.ports.publisher import Publisher
from contracts.settings import ApiSettings
from moderation.carrying import Carrying
from moderation.live import LivePolicy
from moderation.reviewing import Reviewing
from runtime.tasks import end
from store.stores import Stores
from telemetry import series
from telemetry.logs import get_logger

SWEEP_INTERVAL_S: Final = 1.0
"""Seconds between two runs of the sweeper."""

log = get_logger(__name__)


def create_app(
    settings: ApiSettings,
    stores: Stores,
    publisher: Publisher,
    clock: Clock,
    letters: DeadLetters | None = None,
    policy: LivePolicy[Prompts] | None = None,
) -> FastAPI:
    """The ASGI application.

    It closes `stores`, `publisher` and `letters` at the end of its lifespan. Without `letters`, it
    leaves dead letters to other processes. `policy` is what prompts are judged by (`api.moderation.opened`).
    Raises `SettingsError`.
    """
    catalogue = Catalogue(stores.models, clock, settings.default_model, settings.aliases)
    usage = Usage(stores.usage, settings.metrics_tenants, clock)
    decoders = Decoders(settings)
    search = SearchClient(settings, decoders)
    carrying = Carrying(stores, stores.moderation_log, clock, settings.review_undo_s)
    prompts = PromptJudge(settings, policy)
    jobs_service = JobService(settings, stores, publisher, catalogue, usage, decoders, prompts, search, clock)
    services = Services(
        settings=settings,
        stores=stores,
        publisher=publisher,
        catalogue=catalogue,
        jobs=jobs_service,
        waiters=Waiters(
            stores.jobs, stores.events, Shares("waits", settings.max_waits, settings.max_waits_per_key)
        ),
        streams=Streams(stores, catalogue, settings),
        keyring=KeyRing(stores.keys, settings, clock),
        read_rate=ReadRate(settings.reads_per_minute, clock),
        usage=usage,
        reviewing=Reviewing(
            stores.reviews,
            carrying,
            stores.moderation_log,
            clock,
            reviewers=settings.reviewers,
            undo_s=settings.review_undo_s,
        ),
        carrying=carrying,
        sign_in=opened_sign_in(settings, stores.sessions, clock),
        search=search,
        provenance=ProvenanceReader(settings),
        imports=Imports(settings, stores, jobs_service.quotas, jobs_service.room, decoders, clock),
        decoders=decoders,
        prompts=prompts,
        clock=clock,
    )
    app = Application(
        title="Darkroom",
        version="1",
        summary="Text to image over REST: submit a prompt, wait for its image.",
        lifespan=_lifespan,
        redirect_slashes=False,
        openapi_url=None,  # our document (api.routes.reference) also has the limits of the models
        docs_url=None,  # FastAPI's pages load scripts from other hosts
        redoc_url=None,
        # We have our own: one tracer for HTTP, broker and batches. FastAPI would also log refused bodies.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.services = services
    app.state.sweeper = Sweeper(
        stores.jobs, stores.blobs, publisher, letters, settings, clock, SWEEP_INTERVAL_S
    )
    errors.install(app, dict.fromkeys((search_routes.PATH, search_routes.SIMILAR), SEARCH_EXPECTED))
    app.router.routes.append(jobs.direct)
    for module in (
        jobs,
        webhooks,
        batch,
        events,
        openai,
        appeals,
        images,
        provenance_routes,
        models,
        cache,
        keys,
        reviews,
        sessions,
        usage_routes,
        search_routes,
        search_images,
    ):
        app.include_router(module.router, dependencies=[Depends(known_query)])
    # No check of the query here: probes, scrapers, browsers and providers add their own parameters.
    for module in (health, page, reference, sign_in):
        app.include_router(module.router)
    series.begin_api(_endpoints(app))
    # The middleware that is added last is the outermost.
    app.add_middleware(
        BodyLimit,
        limit=settings.max_body_bytes,
        others={
            batch.PATH: settings.max_batch_body_bytes,
            search_images.PATH: settings.max_body_bytes + longest_text(settings.max_import_bytes),
            search_routes.PATH: settings.max_body_bytes + longest_text(settings.max_init_image_bytes),
            jobs.router.prefix: settings.max_body_bytes + longest_text(settings.max_init_image_bytes),
        },
    )
    if settings.anonymous:
        app.add_middleware(BrowserGuard, settings=settings)
    app.add_middleware(EarlyAnswers)
    app.add_middleware(RequestContext, clock=clock, leaving=lambda: services.leaving)
    return app


def _endpoints(app: FastAPI) -> Iterator[tuple[str, str]]:
    """The method and path of every route, and of requests that match no route."""
    # `app.routes` has an included router as one entry.
    for route in iter_route_contexts(app.routes):
        for method in sorted(route.methods or ()):
            yield method, route.path or "unmatched"
    yield "GET", "unmatched"
    yield "POST", "unmatched"


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    sweeper: Sweeper = app.state.sweeper
    sweeping = asyncio.create_task(sweeper.run(), name="sweeper")
    counting = [
        asyncio.create_task(services.jobs.room.run(), name="room"),
        asyncio.create_task(services.usage.run(), name="usage"),
    ]
    if services.settings.moderation is not None:
        counting.append(asyncio.create_task(services.carrying.run(), name="reviews"))
    if services.prompts.live is not None:
        counting.append(asyncio.create_task(services.prompts.live.run(), name="policy"))
    log.info("api_ready", address=f"http://{services.settings.host}:{services.settings.port}")
    try:
        yield
    finally:
        services.let_go()
        await services.jobs.drain()
        await services.decoders.close()
        await services.search.close()
        await services.prompts.close()
        if services.sign_in is not None:
            await services.sign_in.close()
        await end(sweeping, *counting)
        await services.jobs.room.close()
        await services.usage.flush()
        await sweeper.close()
        await services.publisher.close()
        await services.stores.close()
        log.info("api_stopped")
