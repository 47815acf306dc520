"""What became of one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.load.schedule import Planned

OK = "succeeded"


@dataclass(frozen=True, slots=True)
class Sample:
    """Times are seconds from the start of the load. `outcome` is `succeeded` or a code of what went wrong; `job_id` is None
    where nothing was accepted, or the mode does not tell. What the server did not say is None."""

    at_s: float
    """When it should have been sent."""
    sent_s: float
    ended_s: float
    mode: str
    label: str
    tenant: str
    outcome: str
    job_id: str | None = None
    status: str | None = None
    """The job's state as last seen."""
    cache: str | None = None
    batch_size: int | None = None
    batch_ms: float | None = None
    queued_ms: float | None = None
    server_s: float | None = None
    """From the job's creation to its end by the server's clock."""

    @property
    def latency_s(self) -> float:
        """From when it should have been sent: a request that the generator, or a server that stalls, kept waiting counts
        its wait (Tene, "How not to measure latency")."""
        return self.ended_s - self.at_s

    @property
    def lag_s(self) -> float:
        """How late the generator was."""
        return self.sent_s - self.at_s

    @property
    def ok(self) -> bool:
        return self.outcome == OK


def sample(
    planned: Planned, sent_s: float, ended_s: float, outcome: str, job_id: str | None, job: dict[str, Any]
) -> Sample:
    """A request's sample from the job that the server showed last."""
    timings = job.get("timings") or {}
    created, finished = job.get("created_at"), job.get("finished_at")
    return Sample(
        at_s=planned.at_s,
        sent_s=sent_s,
        ended_s=ended_s,
        mode=planned.mode,
        label=planned.label,
        tenant=planned.tenant,
        outcome=outcome,
        job_id=job_id,
        status=job.get("status"),
        cache=job.get("cache"),
        batch_size=timings.get("batch_size"),
        batch_ms=timings.get("batch_ms"),
        queued_ms=timings.get("queued_ms"),
        server_s=None if created is None or finished is None else finished - created,
    )
