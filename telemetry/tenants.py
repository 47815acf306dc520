"""Metrics by tenant, for the tenants with the most load.

All others share one series, which bounds the labels.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter

from telemetry import metrics

OTHER: Final = "_other"
"""The label of all tenants without one. No tenant can have this name."""
WINDOW_S: Final = 60.0
"""How often the labels are reassigned, in seconds."""
MAX_KNOWN: Final = 10_000
"""How many tenants' loads are remembered. Beyond it, the smallest are dropped at the end of a window."""

_ALL: Final = (metrics.TENANT_JOBS, metrics.TENANT_STEPS, metrics.TENANT_REFUSED)


class TopTenants:
    """Assigns labels to the `limit` tenants with the greatest load. Pure; time is an argument.

    The load is a mean that halves with each window. A tenant that loses its label loses its series, and
    counts as `OTHER` from then on. So no series ever decreases.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._loads: dict[str, float] = {}
        self._labelled: set[str] = set()
        self._ends_at = 0.0

    def label(self, tenant: str, load: float, now: float) -> tuple[str, frozenset[str]]:
        """Add `load` to `tenant` at `now` (seconds).

        Returns its label, and the labels that were just removed.
        """
        lost = self._end_window(now)
        if tenant in self._loads or len(self._loads) < 2 * MAX_KNOWN:
            self._loads[tenant] = self._loads.get(tenant, 0.0) + load
        if tenant not in self._labelled and len(self._labelled) < self._limit and tenant in self._loads:
            self._labelled.add(tenant)
        return (tenant if tenant in self._labelled else OTHER), lost

    def _end_window(self, now: float) -> frozenset[str]:
        if now < self._ends_at:
            return frozenset()
        self._ends_at = now + WINDOW_S
        # Of equal loads, a tenant that has a label keeps it.
        ranked = sorted(
            self._loads, key=lambda tenant: (-self._loads[tenant], tenant not in self._labelled, tenant)
        )
        labelled = set(ranked[: self._limit])
        lost = frozenset(self._labelled - labelled)
        self._labelled = labelled
        self._loads = {tenant: self._loads[tenant] / 2 for tenant in ranked[:MAX_KNOWN]}
        return lost


class TenantMetrics:
    """Counts jobs, steps and refusals per tenant, for at most `limit` tenants; 0: for none."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._top = TopTenants(limit)
        self._counters: dict[str, tuple[Counter, Counter, Counter]] = {}

    def accepted(self, tenant: str, steps: int, now: float) -> None:
        """Count a job accepted at `now` (monotonic seconds); `steps` are the denoising steps of all
        its images."""
        if self._limit:
            jobs, done, _ = self._counters_of(tenant, 1.0 + steps, now)
            jobs.inc()
            done.inc(steps)

    def refused(self, tenant: str, now: float) -> None:
        """Count a job refused at `now` (monotonic seconds)."""
        if self._limit:
            self._counters_of(tenant, 1.0, now)[2].inc()

    def _counters_of(self, tenant: str, load: float, now: float) -> tuple[Counter, Counter, Counter]:
        label, lost = self._top.label(tenant, load, now)
        for former in lost:
            self._counters.pop(former, None)
            for counter in _ALL:
                counter.remove(former)
        counters = self._counters.get(label)
        if counters is None:
            jobs, steps, refused = (counter.labels(label) for counter in _ALL)
            counters = self._counters[label] = jobs, steps, refused
        return counters
