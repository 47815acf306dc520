"""A worker without its consumer: real batcher, real engine process (the fake one), real stores."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cache.cache_key import result_address, tenant_scope
from cli.services.redis import RedisServer
from contracts.ids import new_job_id
from contracts.jobs import NOWHERE, Job, JobMessage, NewJob, Origin
from contracts.requests import GenerationRequest
from contracts.settings import WorkerSettings
from runtime.clock import SystemClock
from store.stores import Stores
from tests.moderation.authority import Authority
from tests.publishers import RecordingPublisher
from tests.stores import opened_stores
from tests.worker.policies import policy_in
from tests.worker.receipts import receipt_of
from worker.batcher import Batcher
from worker.bounds import Bounds
from worker.deliveries import Verdict
from worker.encode import Encoder
from worker.end_batcher import EndBatcher
from worker.engine.host import EngineHost
from worker.init_images import InitEmbedder, InitImages
from worker.job import JobRunner
from worker.job_fetcher import JobFetcher
from worker.leases import Leases
from worker.retrier import Retrier
from worker.signing import open_signed_images
from worker.verdicts import Verdicts, opened


@dataclass(frozen=True)
class Room:
    """A worker without its consumer."""

    stores: Stores
    publisher: RecordingPublisher
    batcher: Batcher
    host: EngineHost
    runner: JobRunner
    fetcher: JobFetcher

    async def submit(
        self, prompt: str, ttl_s: float = 60.0, origin: Origin = NOWHERE, **changes: Any
    ) -> JobMessage:
        request = GenerationRequest(
            model="fake",
            prompt=prompt,
            width=64,
            height=64,
            num_inference_steps=1,
            guidance_scale=0.0,
            seed=1,
        ).model_copy(update=changes)
        key = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        new = NewJob(
            id=new_job_id(1.0, key[0]), tenant="public", key=key, request=request, ttl_s=ttl_s, origin=origin
        )
        return (await self.stores.jobs.submit(new)).job.message()

    async def run(self, *messages: JobMessage) -> list[Verdict]:
        async with asyncio.timeout(60):
            return await asyncio.gather(
                *(self.fetcher.hold_delivery(receipt_of(message)) for message in messages)
            )

    async def job(self, message: JobMessage) -> Job:
        return await self.stores.jobs.get("public", message.job_id)

    async def failure(self, message: JobMessage) -> str:
        failure = (await self.job(message)).failure
        return "" if failure is None else failure.code


def address(message: JobMessage) -> str:
    return result_address(message.key, message.request, tenant_scope(message.tenant, shared=False))


@pytest.fixture
async def room(
    request: pytest.FixtureRequest, anyio_backend: str, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[Room]:
    """A parameter, if there is one, holds more settings of the worker. With `sign`, its images are signed. With `policy`, the
    policy of `tests.worker.policies` is in force."""
    more = dict(getattr(request, "param", {}))
    if more.pop("sign", False):
        issued = Authority(tmp_path / "authority").issue()
        more |= {"c2pa_certificates": issued.certificates, "c2pa_key": issued.key}
    if more.pop("policy", False):
        more["moderation"] = policy_in(tmp_path / "policy")
    settings = WorkerSettings(engine="fake", model="fake", max_batch=4, batch_timeout_s=2.0, **more)
    publisher = RecordingPublisher()
    host = EngineHost(settings)
    spec, wake = await asyncio.to_thread(host.start), asyncio.Event()
    batcher, encoder = Batcher(host, settings.max_batch, SystemClock(), room_changed=wake), Encoder()
    bounds, policy = Bounds(spec, settings.max_images_per_job), opened(settings, spec.clip)
    async with opened_stores(redis_server, tmp_path / "stores") as stores:
        leases = Leases(stores.jobs, 9.0)  # seconds: long enough to tell a word from a renewal
        endings, begin = EndBatcher(stores.jobs.end_many), asyncio.create_task
        retrier = Retrier(SystemClock())
        signed = open_signed_images(settings, stores)
        runner = JobRunner(
            "w",
            stores,
            publisher,
            batcher,
            encoder,
            leases,
            endings,
            retrier,
            SystemClock(),
            bounds,
            share_cache=settings.share_cache_between_tenants,
            signed=signed,
            verdicts=None if policy is None else Verdicts(policy, stores.reviews, spec.clip),
            init_images=None
            if policy is None
            else InitImages(policy, stores.reviews, InitEmbedder("", SystemClock()), spec.clip),
        )
        fetcher = JobFetcher(
            "w", "fake", stores, publisher, runner, batcher, retrier, SystemClock(), 16, wake, begin
        )
        work = (batcher.run(), leases.run(), leases.watch_cancellations(stores.events, "w"), fetcher.run())
        tasks = [asyncio.create_task(each) for each in work]
        yield Room(stores, publisher, batcher, host, runner, fetcher)
        runner.drain()
        await batcher.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    encoder.close()
