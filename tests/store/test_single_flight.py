"""Equal requests share one computation: who leads, who follows, and who takes over."""

from __future__ import annotations

import asyncio

import pytest

from contracts.errors import JobNotFound, QueueFull
from contracts.jobs import (
    CacheStatus,
    JobStatus,
)
from tests.store.conftest import World
from tests.store.made import FAILURE, KEY, claimed, led, new, result, status

pytestmark = pytest.mark.anyio


async def test_equal_requests_share_one_computation(world: World) -> None:
    jobs, leader = world.stores.jobs, new()
    lease = await led(jobs, leader)
    followers = [new() for _ in range(3)]
    for follower in followers:
        submitted = await jobs.submit(follower)
        assert not submitted.lead
        assert submitted.job.cache is CacheStatus.JOINED
    assert (await jobs.succeed(lease, result())).applied
    for follower in followers:
        ended = await jobs.get("public", follower.id)
        assert ended.status is JobStatus.SUCCEEDED
        assert ended.result == result()
        assert ended.started_at is not None
        assert ended.started_at >= ended.created_at


async def test_a_flight_that_has_just_landed_serves_those_who_come_before_the_cache_is_filled(
    world: World,
) -> None:
    jobs = world.stores.jobs
    await jobs.succeed(await led(jobs, new()), result())
    late = await jobs.submit(new())
    assert (late.lead, late.job.cache, late.job.result) == (False, CacheStatus.HIT, result())


async def test_a_job_that_may_not_lead_may_still_follow_or_hit(world: World) -> None:
    jobs, refused = world.stores.jobs, new()
    with pytest.raises(QueueFull):
        await jobs.submit(refused, may_lead=False)
    with pytest.raises(JobNotFound):
        await jobs.get("public", refused.id)
    assert await jobs.list("public", 5) == []
    assert (await jobs.submit(new(), result(), may_lead=False)).job.status is JobStatus.SUCCEEDED
    lease = await led(jobs, new())
    follower = await jobs.submit(new(), may_lead=False)
    assert follower.job.cache is CacheStatus.JOINED
    await jobs.succeed(lease, result())
    assert (await jobs.submit(new(), may_lead=False)).job.cache is CacheStatus.HIT, "landed a moment ago"


async def test_other_keys_share_nothing(world: World) -> None:
    jobs = world.stores.jobs
    assert (await jobs.submit(new("a" * 64))).lead
    assert (await jobs.submit(new("b" * 64))).lead
    assert (await jobs.submit(new("a" * 63 + "b"))).lead


async def test_a_failed_leader_promotes_followers_twice_then_all_fail_alike(world: World) -> None:
    jobs = world.stores.jobs
    lease = await led(jobs, new())
    followers = [new() for _ in range(6)]
    for follower in followers:
        await jobs.submit(follower)
    for promoted in followers[:2]:
        finished = await jobs.fail(lease, FAILURE)
        assert [message.job_id for message in finished.promoted] == [promoted.id]
        assert await status(jobs, promoted.id) is JobStatus.QUEUED
        lease = await claimed(jobs, promoted.id)
    assert (await jobs.fail(lease, FAILURE)).promoted == ()
    for follower in followers:
        ended = await jobs.get("public", follower.id)
        assert (ended.status, ended.failure) == (JobStatus.FAILED, FAILURE)
    assert (await jobs.submit(new())).lead, "the key is free again"


async def test_a_promoted_follower_completes_the_others(world: World) -> None:
    jobs = world.stores.jobs
    lease = await led(jobs, new())
    first, second = new(), new()
    await jobs.submit(first)
    await jobs.submit(second)
    (message,) = (await jobs.fail(lease, FAILURE)).promoted
    assert message == (await jobs.get("public", first.id)).message()
    assert (await jobs.succeed(await claimed(jobs, first.id), result())).applied
    assert await status(jobs, second.id) is JobStatus.SUCCEEDED


async def test_a_canceled_leader_hands_its_key_over_without_counting(world: World) -> None:
    jobs, leader = world.stores.jobs, new()
    lease = await led(jobs, leader)
    followers = [new() for _ in range(5)]
    for follower in followers:
        await jobs.submit(follower)
    current = leader
    for follower in followers:
        job, finished = await jobs.cancel("public", current.id)
        assert job.status is JobStatus.CANCELED
        assert [message.job_id for message in finished.promoted] == [follower.id]
        current = follower
    assert not (await jobs.succeed(lease, result())).applied, "a canceled job stays canceled"
    assert (await jobs.cancel("public", current.id))[1].promoted == ()


async def test_a_canceled_follower_leaves_the_others_alone(world: World) -> None:
    jobs = world.stores.jobs
    lease = await led(jobs, new())
    first, second = new(), new()
    await jobs.submit(first)
    await jobs.submit(second)
    assert (await jobs.cancel("public", first.id))[1].promoted == ()
    await jobs.succeed(lease, result())
    assert await status(jobs, first.id) is JobStatus.CANCELED
    assert await status(jobs, second.id) is JobStatus.SUCCEEDED


async def test_a_key_has_the_leader_that_computes_it(world: World) -> None:
    jobs = world.stores.jobs
    leader, follower = [(await jobs.submit(new(KEY))).job.id for _ in range(2)]
    assert await jobs.leaders([KEY, "9" * 64]) == [leader, None]
    assert await jobs.leaders([]) == []
    await jobs.cancel("public", leader)
    assert await jobs.leaders([KEY]) == [follower]


async def test_a_thousand_equal_submits_at_once_lead_once(world: World) -> None:
    jobs = world.stores.jobs
    submitted = await asyncio.gather(*(jobs.submit(new()) for _ in range(1000)))
    assert sum(s.lead for s in submitted) == 1
    leader = next(s.job.id for s in submitted if s.lead)
    assert (await jobs.succeed(await claimed(jobs, leader), result())).applied
    assert {(await jobs.get("public", s.job.id)).status for s in submitted[::50]} == {JobStatus.SUCCEEDED}
