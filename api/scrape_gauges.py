"""Gauges that no event updates, such as the length of each model's queue.

They are read at each scrape, so they are never older than it.
"""

from __future__ import annotations

from api.catalogue import Catalogue
from contracts.errors import StoreUnavailable
from contracts.memory_use import Memory
from contracts.scans import Outcome
from scheduler.admission import capacity_of, eta_s
from store.stores import Stores
from telemetry import metrics


async def refresh(stores: Stores, catalogue: Catalogue, memory: Memory | None, now: float) -> None:
    """Set the gauges of the stores and of every model.

    `now` is Unix seconds. `memory` is that of the state Redis (None: not known). A value that cannot be read now is absent
    or 0, never old.
    """
    metrics.STORE_MEMORY.set(0 if memory is None else memory.used_bytes)
    metrics.STORE_MEMORY_LIMIT.set(0 if memory is None else memory.limit_bytes)
    free_bytes, disk_bytes = await stores.blobs.space() or (0, 0)
    metrics.BLOB_DISK_FREE.set(free_bytes)
    metrics.BLOB_DISK.set(disk_bytes)
    for gauge in (
        metrics.JOBS_WAITING,
        metrics.PREDICTED_WAIT,
        metrics.LIVE_WORKERS,
        metrics.MODEL_RATE,
    ):
        gauge.clear()
    try:
        queue = await stores.reviews.queue()
        metrics.REVIEWS_WAITING.set(queue.waiting)
        metrics.REVIEW_AGE.set(0 if queue.oldest_at is None else max(0.0, now - queue.oldest_at))
        await _scan(stores)
        metrics.WEBHOOKS_DUE.set(await stores.webhooks.due())
        for served in await catalogue.models():
            model, capacity = served.spec.name, capacity_of(served.workers)
            waiting, _ = await stores.jobs.waiting(model)
            metrics.LIVE_WORKERS.labels(model).set(len(served.workers))
            metrics.MODEL_RATE.labels(model).set(capacity.steps_per_s)
            metrics.JOBS_WAITING.labels(model).set(waiting)
            predicted_s = eta_s(waiting, served.spec.step_counts.of(served.spec.default_steps), capacity)
            if predicted_s is not None:
                metrics.PREDICTED_WAIT.labels(model).set(predicted_s)
    except StoreUnavailable:
        metrics.REPAIRED.labels("numbers").inc()


async def _scan(stores: Stores) -> None:
    """Set the gauges of the scan that runs or ran last. Raises `StoreUnavailable`."""
    scan = await stores.scans.get()
    metrics.SCAN_RUNNING.set(scan is not None and scan.ended_at is None)
    for outcome in Outcome:
        metrics.SCAN_IMAGES.labels(outcome.value).set(0 if scan is None else scan.images.get(outcome, 0))
