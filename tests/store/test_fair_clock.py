"""The store gives the tags that the simulation's fair clock gives: capacity is planned with the order that runs."""

from __future__ import annotations

import random

import pytest

from backends.redis_client import connect
from benchmarks.plan.fair_clock import FairClock
from contracts.jobs import Priority
from scheduler.fairness import flow_of, weight_of
from store.key_names import fair_prefix
from tests.store.conftest import World
from tests.store.made import keys, new, taken

pytestmark = pytest.mark.anyio

JOBS = 60
COSTS = (0.5, 1.0, 3.0, 7.25)


@pytest.mark.parametrize("seed", range(3))
async def test_the_store_and_the_simulation_give_the_same_tags(world: World, seed: int) -> None:
    jobs, clock, chance = world.stores.jobs, FairClock(), random.Random(seed)
    expected: dict[str, float] = {}
    found: dict[str, float] = {}

    async def serve(limit: int) -> None:
        for job in await taken(jobs, limit):
            found[job.message.job_id] = job.tag
            clock.served(job.tag)

    for key in keys(JOBS):
        tenant, priority, cost = chance.choice("abc"), chance.choice(list(Priority)), chance.choice(COSTS)
        job = new(key, tenant).model_copy(
            update={"priority": priority, "cost": cost, "weight": weight_of(priority)}
        )
        expected[job.id] = clock.ticket(flow_of(tenant, priority), cost, weight_of(priority))
        assert (await jobs.submit(job)).lead
        if chance.random() < 0.2:
            # One that computes nothing of its own takes no turn.
            same = job.model_copy(update={"id": new(key, tenant).id})
            assert not (await jobs.submit(same)).lead
        if chance.random() < 0.3:
            await serve(chance.randint(1, 3))
    await serve(JOBS)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("world", ["cluster"], indirect=True)
async def test_a_version_beside_this_one_has_the_same_clock(world: World) -> None:
    """0.2.0 keeps the virtual time in a key of its own."""
    jobs, theirs = world.stores.jobs, f"{fair_prefix('m')}clock"
    client = connect(world.settings.redis_url, 2.0)
    for key in keys(2):
        await jobs.submit(new(key).model_copy(update={"cost": 5.0}))
    assert [job.tag for job in await taken(jobs, 2)] == [0.0, 5.0]
    assert await client.zscore(theirs, "now") == 5.0
    assert await client.pttl(theirs) > 0
    # Their workers have taken a later one.
    await client.zadd(theirs, {"now": 40.0}, gt=True)
    (key,) = keys(1)
    assert (await jobs.submit(new(key, "another"))).job.tag == 40.0
    assert await jobs.ahead("m", flow_of("a third", Priority.INTERACTIVE)) == 1
    await client.aclose()
