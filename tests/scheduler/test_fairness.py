"""What flows are, and what they weigh against each other."""

from __future__ import annotations

from contracts.jobs import Priority
from scheduler.fairness import CLASS_WEIGHT, flow_of, weight_of


def test_batch_jobs_yield_and_never_starve() -> None:
    assert flow_of("t", Priority.BATCH) != flow_of("t", Priority.INTERACTIVE)
    share = weight_of(Priority.BATCH) / sum(CLASS_WEIGHT.values())
    assert 0.05 < share < 0.25
