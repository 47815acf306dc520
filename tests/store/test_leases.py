"""Claims, leases and attempts."""

from __future__ import annotations

import asyncio

import pytest

from contracts.jobs import (
    JobStatus,
)
from contracts.transitions import Busy, Ended, Granted
from tests.store.conftest import World
from tests.store.made import FAILURE, claimed, led, new, result, status

pytestmark = pytest.mark.anyio


async def test_only_one_worker_may_hold_a_job(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    await led(jobs, job)
    second = await jobs.claim((await jobs.get("public", job.id)).message(), "w2")
    assert isinstance(second, Busy)
    assert 0 < second.retry_after_s <= world.settings.lease_s


async def test_a_lapsed_lease_is_taken_over_and_fences_off_the_old_one(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    old = await led(jobs, job)
    world.advance(world.settings.lease_s + 0.1)
    fresh = await claimed(jobs, job.id, "w2")
    assert fresh.attempt == 2
    assert fresh.started_at == pytest.approx(old.started_at)
    assert not (await jobs.succeed(old, result())).applied
    assert not (await jobs.fail(old, FAILURE)).applied
    assert not await jobs.release(old)
    assert list(await jobs.renew([old, fresh])) == [old]
    assert (await jobs.succeed(fresh, result())).applied


async def test_a_renewed_lease_holds(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    lease = await led(jobs, job)
    for _ in range(4):
        world.advance(world.settings.lease_s * 0.7)
        assert await jobs.renew([lease]) == []
    assert isinstance(await jobs.claim((await jobs.get("public", job.id)).message(), "w2"), Busy)


async def test_a_lease_is_not_renewed_past_the_deadline(world: World) -> None:
    jobs, job = world.stores.jobs, new(ttl_s=5.0)
    lease = await led(jobs, job)
    world.advance(5.1)
    assert list(await jobs.renew([lease])) == [lease]


async def test_attempts_are_counted_and_end(world: World) -> None:
    jobs, job = world.stores.jobs, new(ttl_s=600.0)
    message = (await jobs.submit(job)).job.message()
    for attempt in (1, 2, 3):
        claim = await jobs.claim(message, "w1")
        assert isinstance(claim, Granted)
        assert claim.lease.attempt == attempt
        world.advance(world.settings.lease_s + 0.1)
    assert await jobs.claim(message, "w1") == Ended(JobStatus.FAILED)
    ended = await jobs.get("public", job.id)
    assert ended.failure is not None
    assert ended.failure.code == "attempts_exhausted"


async def test_a_released_job_is_queued_again_and_costs_no_attempt(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    message = (await jobs.submit(job)).job.message()
    for _ in range(5):
        lease = await claimed(jobs, job.id)
        assert await jobs.release(lease)
        assert await status(jobs, job.id) is JobStatus.QUEUED
        assert not (await jobs.succeed(lease, result())).applied
    assert isinstance(await jobs.claim(message, "w2"), Granted)


async def test_a_release_that_counts_uses_up_an_attempt(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    message = (await jobs.submit(job)).job.message()
    for _ in range(3):
        assert await jobs.release(await claimed(jobs, job.id), fault=FAILURE)
    assert await jobs.claim(message, "w1") == Ended(JobStatus.FAILED)


async def test_a_race_of_claims_grants_one(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    message = (await jobs.submit(job)).job.message()
    claims = await asyncio.gather(*(jobs.claim(message, f"w{i}") for i in range(50)))
    assert sum(isinstance(claim, Granted) for claim in claims) == 1
