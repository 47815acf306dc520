"""Whether one more computation can be promised: somebody serves the model, and the job would end in time behind those ahead."""

from __future__ import annotations

import math
from typing import Final

from contracts.clock import Clock
from contracts.errors import ModelUnavailable, QueueFull, UnavailableError
from contracts.jobs import NewJob
from contracts.models import ServedModel
from contracts.ports import JobStore
from scheduler.admission import Admitted, admit, capacity_of
from scheduler.fairness import flow_of

COUNT_AGAIN_S: Final = 0.25
MAX_COUNTS: Final = 10_000
"""Flows whose place in the queue is remembered between requests."""
COME_BACK_S: Final = 10.0


class Admission:
    """Judges computations by counts of the jobs ahead that are at most `COUNT_AGAIN_S` old."""

    def __init__(self, jobs: JobStore, clock: Clock, *, scale_from_zero: bool) -> None:
        self._jobs = jobs
        self._clock = clock
        self._scale_from_zero = scale_from_zero
        self._ahead: dict[tuple[str, str], tuple[float, int]] = {}

    async def refusal(self, served: ServedModel, new: NewJob) -> UnavailableError | None:
        """Why `new` cannot be promised as a computation of its own; None: it can. Raises `StoreUnavailable`."""
        model = served.spec.name
        if not (served.workers or served.awaited or self._scale_from_zero):
            return ModelUnavailable(
                f"No worker serves {model} now.", retry_after_s=COME_BACK_S, param="model"
            )
        ahead = await self._count(model, flow_of(new.tenant, new.priority))
        verdict = admit(ahead, new.request.steps, capacity_of(served.workers), new.ttl_s)
        if isinstance(verdict, Admitted):
            return None
        return QueueFull(
            f"The queue is too long: the picture would take about {verdict.wait_s:.0f} s.",
            retry_after_s=verdict.retry_after_s,
        )

    async def _count(self, model: str, flow: str) -> int:
        now = self._clock.monotonic()
        counted_at, ahead = self._ahead.get((model, flow), (-math.inf, 0))
        if now - counted_at >= COUNT_AGAIN_S:
            if len(self._ahead) > MAX_COUNTS:
                self._ahead.clear()
            # Noted first, so that one request counts for all that come meanwhile.
            self._ahead[model, flow] = (now, ahead)
            ahead = await self._jobs.ahead(model, flow)
            self._ahead[model, flow] = (now, ahead)
        return ahead
