"""Two applications on one Redis and one RabbitMQ, as two API processes are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from kombu import Connection
from redis.asyncio import Redis

from api.app import create_app
from broker.publisher import open_publisher
from broker.topology import queue_name
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from contracts.jobs import Job, JobResult, Lease
from contracts.models import WorkerInfo
from contracts.settings import ApiSettings
from contracts.transitions import Granted
from runtime.clock import SystemClock
from store.stores import Stores, open_stores
from tests.store.made import result
from tests.store.test_others import spec
from tests.stores import PATIENCE_S

ADMIN = "dk_" + "A" * 43
MODEL = "tenancy"


@dataclass(frozen=True)
class Site:
    """Two applications on the same services, and a worker's hands."""

    http: tuple[httpx.AsyncClient, httpx.AsyncClient]
    stores: Stores
    settings: ApiSettings
    redis: Redis

    async def key(self, tenant: str, **limits: Any) -> dict[str, str]:
        """Headers with a fresh key."""
        response = await self.http[0].post(
            "/v1/keys", json={"tenant": tenant, **limits}, headers={"X-API-Key": ADMIN}
        )
        assert response.status_code == 201, response.text
        return {"Authorization": f"Bearer {response.json()['key']}"}

    async def post(self, index: int, headers: dict[str, str], **body: Any) -> httpx.Response:
        request = {"prompt": f"number {index}", **body}
        return await self.http[index % 2].post("/v1/jobs", json=request, headers=headers)

    async def posted(
        self, count: int, headers: dict[str, str], start: int = 0, **body: Any
    ) -> list[httpx.Response]:
        """That many submits at once, of different prompts, through both applications."""
        return await asyncio.gather(*(self.post(start + i, headers, **body) for i in range(count)))

    async def claimed(self, tenant: str, job_id: str) -> tuple[Job, Lease]:
        job = await self.stores.jobs.get(tenant, job_id)
        claim = await self.stores.jobs.claim(job.message(), "w")
        assert isinstance(claim, Granted), claim
        return job, claim.lease

    async def finish(self, tenant: str, job_id: str) -> JobResult:
        _, lease = await self.claimed(tenant, job_id)
        done = result()
        assert (await self.stores.jobs.succeed(lease, done)).applied
        return done

    def published(self) -> int:
        with Connection(self.settings.broker_url) as connection:
            return int(
                connection.default_channel.queue_declare(queue_name(MODEL), passive=True).message_count
            )


@pytest.fixture
async def site(
    anyio_backend: str, redis_server: RedisServer, rabbit_server: RabbitServer, tmp_path: Path
) -> AsyncIterator[Site]:
    url = redis_server.url.replace("/0", "/9")
    redis = Redis.from_url(url, decode_responses=True)
    await redis.flushdb()
    settings = ApiSettings(
        redis_url=url,
        redis_timeout_s=PATIENCE_S,
        broker_url=rabbit_server.url,
        blob_dir=tmp_path / "blobs",
        allow_anonymous=False,
        admin_key=ADMIN,
        worker_ttl_s=600,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(redis.aclose)
        clients = []
        for _ in range(2):
            stores = open_stores(settings)
            app = create_app(settings, stores, open_publisher(settings), SystemClock())
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)
            clients.append(await stack.enter_async_context(client))
        worker = WorkerInfo(id="w", model=MODEL, started_at=1.0, steps_per_s=1000.0)
        await stores.models.announce(spec(MODEL), worker)
        with Connection(rabbit_server.url) as connection:
            connection.default_channel.queue_delete(queue_name(MODEL))
        yield Site((clients[0], clients[1]), stores, settings, redis)


def tally(responses: list[httpx.Response]) -> Counter[int]:
    return Counter(response.status_code for response in responses)
