"""The application on real stores, called through ASGI. Tests read what it publishes, and can make publishing fail."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from api import moderation
from api.app import create_app
from cache.cache_key import result_address, tenant_scope
from cli.services.redis import RedisServer
from contracts.jobs import ImageRef, Job, JobMessage, JobResult, Timings
from contracts.models import WorkerInfo
from contracts.settings import ApiSettings
from contracts.transitions import End, Finished, Granted
from store.stores import Stores, open_stores
from tests.publishers import RecordingPublisher
from tests.store.test_others import spec
from tests.stores import StoreClock, backend, empty

ADMIN_KEY = "dk_" + "A" * 43
ADMIN = {"X-API-Key": ADMIN_KEY}
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@dataclass(frozen=True)
class ApiUnderTest:
    """The API under test, its stores and publisher, and a stand-in for the worker."""

    http: httpx.AsyncClient
    stores: Stores
    publisher: RecordingPublisher
    clock: StoreClock

    async def submit(self, **body: Any) -> dict[str, Any]:
        response = await self.http.post("/v1/jobs", json={"prompt": "a red apple", **body})
        assert response.status_code == 202, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def work(self, message: JobMessage | None = None) -> Job:
        """Do what a worker does with the newest message."""
        message = message or self.publisher.published[-1]
        claim = await self.stores.jobs.claim(message, "w")
        assert isinstance(claim, Granted)
        name = await self.stores.blobs.put(PICTURE, "png")
        request = message.request
        image = ImageRef(
            name=name,
            width=request.width,
            height=request.height,
            seed=request.seed,
            content_type="image/png",
            size_bytes=len(PICTURE),
        )
        result = JobResult(
            images=(image,),
            timings=Timings(queued_ms=1, batch_ms=2, encode_ms=3, batch_size=4),
            warnings=("cut",),
        )
        address = None
        if request.cache != "off":
            scope = tenant_scope(message.tenant, shared=False)
            address = result_address(message.key, request, scope)
        (answer,) = await self.stores.jobs.end_many([End(claim.lease, result, address)])
        assert isinstance(answer, Finished)
        assert answer.applied
        return await self.stores.jobs.get(message.tenant, message.job_id)


Opener = Callable[..., Coroutine[Any, Any, ApiUnderTest]]


@pytest.fixture
async def opened(anyio_backend: str, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens applications, each with the given settings and a separate Redis database, and closes them."""
    closers: list[Callable[[], Coroutine[Any, Any, object]]] = []
    numbers = itertools.count()
    empty(redis_server)

    async def open_api(models: tuple[str, ...] = ("m",), **settings: Any) -> ApiUnderTest:
        number = next(numbers)
        own = backend(redis_server, tmp_path / f"blobs-{number}", number)
        given = ApiSettings.model_validate({"admin_key": ADMIN_KEY, **own, **settings})
        stores, publisher = open_stores(given, log_key=given.moderation_log_key), RecordingPublisher()
        clock = StoreClock(stores, given.redis_url)
        for name in models:
            worker = WorkerInfo(id=f"w-{name}", model=name, started_at=1.0, steps_per_s=10.0)
            await stores.models.announce(spec(name), worker)
        app = create_app(given, stores, publisher, clock, policy=moderation.opened(given))
        lifespan = app.router.lifespan_context(app)
        await lifespan.__aenter__()
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://localhost"
        )
        closers.append(client.aclose)
        closers.append(lambda: lifespan.__aexit__(None, None, None))
        return ApiUnderTest(client, stores, publisher, clock)

    yield open_api
    for close in closers:
        await close()


@pytest.fixture
async def api(opened: Opener) -> ApiUnderTest:
    return await opened()
