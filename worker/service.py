"""A worker on its event loop, from the loading of its model to its last job: fetch, schedule, run, finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from backends.blobs import DirectoryBlobStore
from broker.publisher import open_publisher
from contracts.clock import Clock
from contracts.errors import StoreUnavailable
from contracts.models import ModelSpec, WorkerInfo
from contracts.settings import WorkerSettings
from contracts.tasks import end
from scheduler.cost import CostModel
from store.stores import Stores, open_stores
from telemetry import metrics, series
from telemetry.logs import get_logger
from worker.batcher import Batcher
from worker.bounds import Bounds
from worker.encode import Encoder
from worker.end_batcher import EndBatcher
from worker.engine.host import EngineDied, EngineHost, EngineLoadError
from worker.heartbeat import Heartbeat
from worker.job import JobRunner
from worker.job_fetcher import JobFetcher
from worker.leases import Leases
from worker.retrier import Retrier

GIVE_BACK_S: Final = 5.0
LOAD_AGAIN_S: Final = (1.0, 5.0)
"""Pauses after which an engine is started again whose process ended while it loaded: whatever took its memory may be gone."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """A worker that works."""

    stores: Stores
    spec: ModelSpec
    batcher: Batcher
    runner: JobRunner
    fetcher: JobFetcher
    heartbeat: Heartbeat


@asynccontextmanager
async def serving(
    settings: WorkerSettings, worker_id: str, clock: Clock, on_failure: Callable[[], object]
) -> AsyncIterator[Service]:
    """A worker while inside. Raises `EngineLoadError` where the model cannot be loaded. `on_failure` hears of a part that is beyond repair, as a
    rule the engine; the others go on, so that the jobs in hand are given back."""
    stores, publisher = open_stores(settings), open_publisher(settings)
    encoder, host = _encoder(stores), EngineHost(settings)
    try:
        spec = await _load(host)
        cost = await _recall(stores, spec)
        series.begin_worker(spec.name, settings.max_attempts)
        async with asyncio.TaskGroup() as group:
            room = asyncio.Event()
            retrier = Retrier(clock)
            leases = Leases(stores.jobs, settings.heartbeat_s)
            # The model may leave less room than was asked for.
            batcher = Batcher(host, min(settings.max_batch, spec.max_batch), clock, cost, room)
            runner = JobRunner(
                worker_id,
                stores,
                publisher,
                batcher,
                encoder,
                leases,
                EndBatcher(stores.jobs.end_many),
                retrier,
                clock,
                Bounds(spec, settings.max_images_per_job),
                share_cache=settings.share_cache_between_tenants,
            )
            fetcher = JobFetcher(
                worker_id,
                spec.name,
                stores,
                publisher,
                runner,
                batcher,
                retrier,
                clock,
                settings.deliveries,
                room,
                group.create_task,
            )
            info = WorkerInfo(id=worker_id, model=spec.name, started_at=clock.now())
            heartbeat = Heartbeat(stores.models, spec, info, batcher, fetcher, settings.heartbeat_s)
            parts = {
                "taker": fetcher.run(),  # fetches jobs, and finishes them
                "batcher": batcher.run(),  # schedules their images, and runs them
                "leases": leases.run(),
                "cancellations": leases.hear(stores.events, worker_id),
                "heartbeat": heartbeat.run(),
            }
            tasks = [
                group.create_task(_part(name, part, runner, on_failure), name=name)
                for name, part in parts.items()
            ]
            log.info("worker_ready", worker=worker_id, model=spec.name, revision=spec.revision)
            metrics.ENGINE_INFO.labels(spec.name, spec.device, spec.dtype, spec.attention).set(1)
            yield Service(stores, spec, batcher, runner, fetcher, heartbeat)
            # What has been begun is finished, the rest is given back, while the leases are still renewed.
            runner.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(GIVE_BACK_S):
                    await fetcher.finish()
            await batcher.stop()
            await end(*tasks, *fetcher.left())
        await heartbeat.end()
    finally:
        await asyncio.to_thread(host.kill)
        encoder.close()
        await publisher.close()
        await stores.close()


async def _part(
    name: str, part: Coroutine[Any, Any, None], runner: JobRunner, on_failure: Callable[[], object]
) -> None:
    try:
        await part
    except Exception as error:  # noqa: BLE001 - whatever it is, the other parts give back what is in hand
        reason = str(error) if isinstance(error, EngineLoadError) else type(error).__name__
        log.error("worker_part_failed", part=name, reason=reason)
        runner.drain()
        on_failure()


async def _load(host: EngineHost) -> ModelSpec:
    """Starts the engine; another one where its process was ended before it could say what is wrong. Raises `EngineLoadError`."""
    for delay_s in LOAD_AGAIN_S:
        try:
            return await asyncio.to_thread(host.start)
        except EngineDied as error:
            log.warning("engine_died_loading", reason=str(error), again_in_s=delay_s)
        await asyncio.sleep(delay_s)
    return await asyncio.to_thread(host.start)


async def _recall(stores: Stores, spec: ModelSpec) -> CostModel:
    """What earlier workers of this model on this kind of device have learnt of its speed."""
    try:
        told = await stores.models.recall_cost(spec.name, spec.device)
        return CostModel.load(told) if told else CostModel()
    except (StoreUnavailable, ValueError):
        # It is learnt again from the first passes.
        metrics.REPAIRED.labels("recall_cost").inc()
        return CostModel()


def _encoder(stores: Stores) -> Encoder:
    blobs = stores.blobs
    # A bucket is not written to by a thread that could encode meanwhile.
    return Encoder(blobs.write if isinstance(blobs, DirectoryBlobStore) else None)
