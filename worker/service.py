"""A worker on its event loop: loads its model, then fetches, schedules, runs and finishes jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from backends.blobs import DirectoryBlobStore
from broker.publisher import open_publisher
from contracts.errors import StoreUnavailable
from contracts.models import ModelSpec, WorkerInfo
from contracts.ports.clock import Clock
from contracts.settings import WorkerSettings
from runtime.tasks import end
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
from worker.init_images import InitEmbedder, InitImages
from worker.job import JobRunner
from worker.job_fetcher import JobFetcher
from worker.leases import Leases
from worker.retrier import Retrier
from worker.signing import open_signed_images
from worker.verdicts import Verdicts, opened

GIVE_BACK_S: Final = 5.0
"""How long a draining worker waits for its jobs to end or to be given back."""
LOAD_AGAIN_S: Final = (1.0, 5.0)
"""Pauses before an engine is started again whose process ended while it loaded.

What took its memory may be gone by then.
"""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a running worker."""

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
    """Run a worker while inside.

    `on_failure` is called when a part fails for good, usually the engine. The other parts go on,
    because they give the active jobs back. Raises `EngineLoadError` where the model cannot be
    loaded, and `SettingsError` where images shall be signed and cannot be, or where the policy of
    moderation cannot be used.
    """
    stores, publisher = open_stores(settings), open_publisher(settings)
    signed = open_signed_images(settings, stores)
    encoder, host = _encoder(stores, writes=signed is None), EngineHost(settings)
    embedder = InitEmbedder(settings.clip, clock)
    try:
        spec = await _load(host)
        cost = await _recall_cost(stores, spec)
        policy = await asyncio.to_thread(opened, settings, spec.clip)
        series.begin_worker(spec.name, settings.max_attempts)
        async with asyncio.TaskGroup() as group:
            room = asyncio.Event()
            retrier = Retrier(clock)
            leases = Leases(stores.jobs, settings.heartbeat_s)
            # The model may allow smaller batches than the setting.
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
                keep_pictures_s=settings.blob_retention_s,
                signed=signed,
                verdicts=None if policy is None else Verdicts(policy, stores.reviews, spec.clip),
                init_images=None
                if policy is None
                else InitImages(policy, stores.reviews, embedder, spec.clip),
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
            heartbeat = Heartbeat(
                stores.models,
                spec,
                info,
                batcher,
                fetcher,
                settings.heartbeat_s,
                str if policy is None else lambda: policy.now.policy.title,
            )
            parts = {
                "taker": fetcher.run(),  # fetches jobs, and finishes them
                "batcher": batcher.run(),  # schedules their images, and runs them
                "leases": leases.run(),
                "cancellations": leases.watch_cancellations(stores.events, worker_id),
                "heartbeat": heartbeat.run(),
            }
            if policy is not None:
                parts["policy"] = policy.run()
            tasks = [
                group.create_task(_part(name, part, runner, on_failure), name=name)
                for name, part in parts.items()
            ]
            log.info("worker_ready", worker=worker_id, model=spec.name, revision=spec.revision)
            metrics.ENGINE_INFO.labels(spec.name, spec.device, spec.dtype, spec.attention).set(1)
            yield Service(stores, spec, batcher, runner, fetcher, heartbeat)
            # Started images finish, and the other jobs are given back. Leases are renewed until then.
            runner.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(GIVE_BACK_S):
                    await fetcher.finish()
            await batcher.stop()
            await end(*tasks, *fetcher.running_jobs())
        await heartbeat.end()
    finally:
        await asyncio.to_thread(host.kill)
        encoder.close()
        await embedder.close()
        await publisher.close()
        await stores.close()


async def _part(
    name: str, part: Coroutine[Any, Any, None], runner: JobRunner, on_failure: Callable[[], object]
) -> None:
    try:
        await part
    except Exception as error:  # noqa: BLE001 - the other parts must still give the active jobs back
        reason = str(error) if isinstance(error, EngineLoadError) else type(error).__name__
        log.error("worker_part_failed", part=name, reason=reason)
        runner.drain()
        on_failure()


async def _load(host: EngineHost) -> ModelSpec:
    """Start the engine, and answer its model. Raises `EngineLoadError`.

    An engine whose process ends without a reason is started again, after each pause of
    `LOAD_AGAIN_S`.
    """
    for delay_s in LOAD_AGAIN_S:
        try:
            return await asyncio.to_thread(host.start)
        except EngineDied as error:
            log.warning("engine_died_loading", reason=str(error), again_in_s=delay_s)
        await asyncio.sleep(delay_s)
    return await asyncio.to_thread(host.start)


async def _recall_cost(stores: Stores, spec: ModelSpec) -> CostModel:
    """The cost model that earlier workers of this model stored for this kind of device."""
    try:
        stored = await stores.models.recall_cost(spec.name, spec.device)
        return CostModel.load(stored) if stored else CostModel()
    except (StoreUnavailable, ValueError):
        # The first batches measure it again.
        metrics.REPAIRED.labels("recall_cost").inc()
        return CostModel()


def _encoder(stores: Stores, *, writes: bool) -> Encoder:
    blobs = stores.blobs
    # Encoder threads write files into a folder. They do not wait for a bucket: they could encode
    # meanwhile.
    return Encoder(blobs.write if writes and isinstance(blobs, DirectoryBlobStore) else None)
