"""What is done for many jobs in one call: each is answered for itself, and one that breaks spoils none of the others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from backends.redis_client import connect
from contracts.errors import StoreUnavailable
from contracts.transitions import End, Finished, Submission, Submitted
from store.key_names import Layout
from store.layout import LayoutGuard
from store.order import Order
from tests.store.answers import address, job_of, store_of
from tests.store.conftest import World
from tests.store.made import keys, led, new, result, taken

pytestmark = pytest.mark.anyio


async def test_one_that_breaks_fails_alone(world: World) -> None:
    jobs, layout = world.stores.jobs, store_of(world).layout
    client = connect(world.settings.redis_url, 2.0)
    await client.set(layout.flight_key("a" * 64), "no hash")
    answers = await jobs.submit_many([Submission(new(digit * 64)) for digit in "bac"])
    assert isinstance(answers[1], StoreUnavailable)
    assert [isinstance(each, Submitted) for each in answers] == [True, False, True]
    # An end that breaks, between two that do not.
    await client.delete(layout.flight_key("a" * 64))
    leases = [await led(jobs, new(digit * 64)) for digit in "def"]
    followers = f"{layout.prefix('e')}followers:{'e' * 64}"
    await client.set(followers, "no list")
    ends = await jobs.end_many([End(lease, result()) for lease in leases])
    assert ends[0] == ends[2] == Finished(applied=True)
    assert isinstance(ends[1], StoreUnavailable)
    await client.aclose()


@pytest.mark.parametrize("world", ["cluster"], indirect=True)
async def test_one_that_nobody_foresaw_fails_alone(world: World) -> None:
    """A weight of zero, which the API gives nobody."""
    jobs, odd = world.stores.jobs, new("a" * 64).model_copy(update={"weight": 0.0})
    submissions = [Submission(job) for job in (new("b" * 64), odd, new("c" * 64))]
    for asked in (submissions, [replace(each, address=address(each.new)) for each in submissions]):
        answers = await jobs.submit_many(asked)
        assert isinstance(answers[1], ZeroDivisionError)
        assert [isinstance(each, Submitted) for each in answers] == [True, False, True]


@pytest.mark.parametrize("world", ["cluster"], indirect=True)
async def test_connections_that_are_closed_under_a_group_are_a_store_that_is_away(world: World) -> None:
    """As redis-py does to all others where one call meets a node that is gone."""
    outcomes: set[type] = set()
    for turns in range(25):
        client: Any = connect(world.settings.redis_url, 2.0)
        await client.initialize()
        guard = LayoutGuard(client, 16, 2.0)
        guard.passed = True
        orders = Order(client, Layout(16), guard)
        calls = asyncio.gather(*(orders.waiting("m", []) for _ in range(4)), return_exceptions=True)
        for _ in range(turns):
            await asyncio.sleep(0)
        for node in client.get_nodes():
            for connection in list(node._connections):
                await connection.disconnect(nowait=True)
        outcomes |= set(map(type, await calls))
        await client.aclose()
    assert outcomes == {tuple, StoreUnavailable}


async def test_leases_are_renewed_and_messages_confirmed_together(world: World) -> None:
    jobs = world.stores.jobs
    leases = [await led(jobs, new(key)) for key in keys(20)]
    await jobs.cancel("public", leases[3].job_id)
    world.advance(world.settings.lease_s / 2)
    assert await jobs.renew(leases) == [leases[3]]
    assert await jobs.renew([]) == []
    waiting = [new(key) for key in keys(20)]
    for job in waiting:
        await jobs.submit(job)
    await jobs.confirm_many([job.id for job in waiting[1:]])
    await jobs.confirm_many([])
    world.advance(6.0)
    stale = [message.job_id for shard in jobs.shards for message in (await jobs.sweep(shard, 100))[0]]
    assert waiting[0].id in stale
    assert not {job.id for job in waiting[1:]} & set(stale)


async def test_more_jobs_than_one_call_takes(world: World) -> None:
    jobs = world.stores.jobs
    made = [new(key) for key in keys(150)]
    answers = await jobs.submit_many([Submission(job) for job in made])
    assert [job_of(answer).id for answer in answers] == [job.id for job in made]
    mine = await taken(jobs, 150)
    assert len(mine) == 150
    ends = await jobs.end_many([End(job.lease, result()) for job in mine])
    assert all(each == Finished(applied=True) for each in ends)
