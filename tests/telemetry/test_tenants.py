"""Which tenants have series of their own: few, those of the greatest load, and no series ever steps back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from telemetry import metrics
from telemetry.tenants import MAX_KNOWN, OTHER, WINDOW_S, TenantMetrics, TopTenants

COUNTERS = (metrics.TENANT_JOBS, metrics.TENANT_STEPS, metrics.TENANT_REFUSED)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    for counter in COUNTERS:
        counter.clear()
    yield
    for counter in COUNTERS:
        counter.clear()


def series() -> dict[str, float]:
    """The jobs of each label."""
    found = {}
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            if sample.name == "darkroom_tenant_jobs_total":
                found[sample.labels["tenant"]] = sample.value
    return found


def test_the_largest_have_series_whoever_came_first() -> None:
    counts = TenantMetrics(2)
    for small in ("a", "b", "c"):
        counts.accepted(small, 1, 0.0)
    for now in (1.0, WINDOW_S + 1, 2 * WINDOW_S + 2):
        for large in ("x", "y"):
            counts.accepted(large, 1000, now)
    assert set(series()) == {"x", "y", OTHER}
    assert series()[OTHER] == 3, "c, and the first job of x and of y"


def test_none_are_named_where_the_operator_wants_none() -> None:
    counts = TenantMetrics(0)
    counts.accepted("a", 1, 0.0)
    counts.refused("a", 0.0)
    assert series() == {}


def test_a_crowd_of_tenants_makes_no_crowd_of_series() -> None:
    counts = TenantMetrics(5)
    for number in range(20_000):
        counts.accepted(f"t{number}", number % 7, number * 0.1)
    assert len(series()) <= 6
    for counter in COUNTERS:
        assert len(counter._metrics) <= 6
    assert len(counts._top._loads) <= 2 * MAX_KNOWN


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9), st.floats(0, 40)), max_size=200))
def test_labels_are_few_and_other_never_steps_back(events: list[tuple[str, int, float]]) -> None:
    top, now, live, total = TopTenants(2), 0.0, set[str](), Counter[str]()
    for tenant, load, passed in events:
        now += passed
        label, lost = top.label(tenant, float(load), now)
        live -= lost
        live.add(label)
        total[label] += 1
        assert label in (tenant, OTHER)
        assert len(live - {OTHER}) <= 2
        assert OTHER not in lost
    assert sum(total.values()) == len(events)
