"""The list of a tenant's jobs and its pages."""

from __future__ import annotations

import asyncio

import pytest

from backends.redis_client import connect
from contracts.ids import new_job_id
from store.key_names import Layout
from tests.store.conftest import World
from tests.store.made import led, new, result

pytestmark = pytest.mark.anyio


async def test_the_list_is_newest_first_and_pages(world: World) -> None:
    jobs = world.stores.jobs
    submitted = []
    for digit in "0123456789abcdef0123":
        submitted.append((await jobs.submit(new(digit + "f" * 63))).job.id)
        world.advance(0.01)
    submitted.reverse()
    seen: list[str] = []
    while page := await jobs.list("public", 7, seen[-1] if seen else None):
        assert len(page) <= 7
        seen += [job.id for job in page]
    assert seen == submitted


async def test_the_list_pages_through_jobs_of_one_moment(world: World) -> None:
    """Hits of one shard are recorded together, under one time."""
    jobs = world.stores.jobs
    made = [new("a" + f"{number:063x}") for number in range(30)]
    hits = await asyncio.gather(*(jobs.submit(each, result()) for each in made))
    assert len({hit.job.created_at for hit in hits}) < 10
    seen: list[str] = []
    while page := await jobs.list("public", 3, seen[-1] if seen else None):
        seen += [job.id for job in page]
    assert len(seen) == len(made)
    assert set(seen) == {each.id for each in made}


async def test_the_list_holds_live_jobs_that_are_older_than_the_retention(world: World) -> None:
    jobs, long_s = world.stores.jobs, 3 * world.settings.job_retention_s
    old = []
    for number in range(7):
        old.append((await jobs.submit(new("b" + f"{number:063x}", ttl_s=long_s))).job.id)
        world.advance(0.01)
    world.advance(world.settings.job_retention_s + 1)
    fresh = (await jobs.submit(new("b" + "f" * 63, ttl_s=1.0))).job.id
    assert [job.id for job in await jobs.list("public", 100)] == [fresh, *reversed(old)]


async def test_a_short_job_does_not_end_the_list_that_holds_a_long_one(world: World) -> None:
    jobs, retention_s = world.stores.jobs, world.settings.job_retention_s
    long_one = (await jobs.submit(new("b" * 64, ttl_s=3 * retention_s))).job.id
    await jobs.submit(new("b" * 63 + "c", ttl_s=1.0))
    world.set_clock(2 * retention_s)
    assert [job.id for job in await jobs.list("public", 100)] == [long_one]


async def test_a_page_is_full_where_records_have_ended_between(world: World) -> None:
    """Every second job is no longer kept: that shortens no page, and ends no list."""
    jobs = world.stores.jobs
    kept, gone = [], []
    for number in range(20):
        job = new(
            "0123456789abcdef"[number % 16] + f"{number:063x}", ttl_s=10 * world.settings.job_retention_s
        )
        lease = await led(jobs, job)
        if number % 4 == 0:
            kept.append(job.id)
        else:
            gone.append(job.id)
            await jobs.succeed(lease, result())
        world.advance(0.01)
    world.set_clock(world.settings.job_retention_s + 1)
    kept.reverse()
    assert await jobs.statuses(gone) == [None] * len(gone)
    for limit in (1, 2, 3, 100):
        seen: list[str] = []
        while page := await jobs.list("public", limit, seen[-1] if seen else None):
            assert len(page) == min(limit, len(kept) - len(seen))
            seen += [job.id for job in page]
        assert seen == kept


async def test_a_cursor_whose_job_is_no_longer_kept_goes_on_where_it_stood(world: World) -> None:
    jobs = world.stores.jobs
    first = (await jobs.submit(new("c" * 64))).job
    world.advance(10)
    gone = new("d" * 64).model_copy(update={"id": new_job_id(first.created_at + 10, "d")})
    await jobs.submit(gone)
    world.advance(10)
    await jobs.submit(new("e" * 64))
    await jobs.withdraw(gone.id)
    assert [job.id for job in await jobs.list("public", 10, gone.id)] == [first.id]


async def test_places_of_jobs_that_are_no_longer_kept_go_by_themselves(world: World) -> None:
    jobs = world.stores.jobs
    for number in range(5):
        await jobs.succeed(await led(jobs, new("a" + f"{number:063x}")), result())
    alive = (await jobs.submit(new("a" * 64, ttl_s=10 * world.settings.job_retention_s))).job.id
    world.set_clock(world.settings.job_retention_s + 1)
    later = [(await jobs.submit(new("a" * 63 + digit))).job.id for digit in "bc"]
    client = connect(world.settings.redis_url, 2.0)
    assert set(await client.zrange(Layout(world.settings.shards).tenant_key(alive, "public"), 0, -1)) == {
        alive,
        *later,
    }
    await client.aclose()
