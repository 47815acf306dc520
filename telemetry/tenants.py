"""Metrics by tenant, for those who load the platform most. All others share one series, so that labels stay few."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter

from telemetry import metrics

OTHER: Final = "_other"
"""The label of all tenants that have none; no tenant can be called so."""
WINDOW_S: Final = 60.0
"""How often it is decided anew who has a label."""
MAX_KNOWN: Final = 10_000
"""Tenants whose load is known; of more than these the smallest are forgotten at the end of a window."""

_ALL: Final = (metrics.TENANT_JOBS, metrics.TENANT_STEPS, metrics.TENANT_REFUSED)


class TopTenants:
    """Who has a label: the `limit` tenants of the greatest load, by a mean that halves with each window. Pure; time is handed in.

    A tenant that loses its label loses its series; from then on it counts as `OTHER`. So no series ever steps back.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._loads: dict[str, float] = {}
        self._labelled: set[str] = set()
        self._ends_at = 0.0

    def label(self, tenant: str, load: float, now: float) -> tuple[str, frozenset[str]]:
        """The label of `tenant`, which brings `load` at `now` (seconds), and the labels that ended just now."""
        lost = self._turn(now)
        if tenant in self._loads or len(self._loads) < 2 * MAX_KNOWN:
            self._loads[tenant] = self._loads.get(tenant, 0.0) + load
        if tenant not in self._labelled and len(self._labelled) < self._limit and tenant in self._loads:
            self._labelled.add(tenant)
        return (tenant if tenant in self._labelled else OTHER), lost

    def _turn(self, now: float) -> frozenset[str]:
        if now < self._ends_at:
            return frozenset()
        self._ends_at = now + WINDOW_S
        # Of equal loads the one that has a label keeps it.
        ranked = sorted(self._loads, key=lambda each: (-self._loads[each], each not in self._labelled, each))
        labelled = set(ranked[: self._limit])
        lost = frozenset(self._labelled - labelled)
        self._labelled = labelled
        self._loads = {each: self._loads[each] / 2 for each in ranked[:MAX_KNOWN]}
        return lost


class TenantMetrics:
    """Counts what tenants ask for, by tenant for at most `limit` of them; 0: not at all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._top = TopTenants(limit)
        self._counters: dict[str, tuple[Counter, Counter, Counter]] = {}

    def accepted(self, tenant: str, steps: int, now: float) -> None:
        """A job of `steps` denoising steps, that of all its images, was accepted at `now` (seconds, monotonic)."""
        if self._limit:
            jobs, done, _ = self._of(tenant, 1.0 + steps, now)
            jobs.inc()
            done.inc(steps)

    def refused(self, tenant: str, now: float) -> None:
        """A job was refused."""
        if self._limit:
            self._of(tenant, 1.0, now)[2].inc()

    def _of(self, tenant: str, load: float, now: float) -> tuple[Counter, Counter, Counter]:
        label, lost = self._top.label(tenant, load, now)
        for each in lost:
            self._counters.pop(each, None)
            for counter in _ALL:
                counter.remove(each)
        counters = self._counters.get(label)
        if counters is None:
            jobs, steps, refused = (counter.labels(label) for counter in _ALL)
            counters = self._counters[label] = jobs, steps, refused
        return counters
