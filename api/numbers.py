"""Numbers that no event tells: how long each model's queue is now, and what its workers make of it. Read at the scrape, so
that they are never older than it, however quiet the door."""

from __future__ import annotations

from api.catalogue import Catalogue
from contracts.errors import StoreUnavailable
from contracts.ports import JobStore
from scheduler.admission import capacity_of, eta_s
from telemetry import metrics


async def refresh(store: JobStore, catalogue: Catalogue) -> None:
    """Set the gauges of every model. What cannot be learned now is absent rather than old."""
    for gauge in (
        metrics.JOBS_WAITING,
        metrics.PREDICTED_WAIT,
        metrics.LIVE_WORKERS,
        metrics.MODEL_RATE,
    ):
        gauge.clear()
    try:
        for served in await catalogue.models():
            model, capacity = served.spec.name, capacity_of(served.workers)
            waiting, _ = await store.waiting(model)
            metrics.LIVE_WORKERS.labels(model).set(len(served.workers))
            metrics.MODEL_RATE.labels(model).set(capacity.steps_per_s)
            metrics.JOBS_WAITING.labels(model).set(waiting)
            predicted_s = eta_s(waiting, served.spec.step_counts.of(served.spec.default_steps), capacity)
            if predicted_s is not None:
                metrics.PREDICTED_WAIT.labels(model).set(predicted_s)
    except StoreUnavailable:
        metrics.REPAIRED.labels("numbers").inc()
