"""Usage by tenant and day, and whose a job is, on every store."""

from __future__ import annotations

import pytest

from tests.store.conftest import World
from tests.store.made import new

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_counts_add_up_by_day(world: World) -> None:
    usage = world.stores.usage
    assert await usage.of("2026-11-30") == {}
    await usage.add("2026-11-30", {("acme", "jobs"): 2, ("acme", "steps"): 8})
    await usage.add("2026-11-30", {("acme", "jobs"): 1, ("b-2", "refused"): 5})
    await usage.add("2026-12-01", {("acme", "jobs"): 9})
    assert await usage.of("2026-11-30") == {("acme", "jobs"): 3, ("acme", "steps"): 8, ("b-2", "refused"): 5}
    assert await usage.of("2026-12-01") == {("acme", "jobs"): 9}


async def test_a_job_tells_whose_it_is(world: World) -> None:
    job = new("a" * 64)
    await world.stores.jobs.submit(job)
    assert await world.stores.jobs.owner(job.id) == job.tenant
    assert await world.stores.jobs.owner(new("b" * 64).id) is None
