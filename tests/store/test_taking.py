"""The contract of the job store: which jobs a worker is given, in what order."""

from __future__ import annotations

import asyncio
import time

import pytest

from contracts.ids import new_job_id
from contracts.jobs import (
    JobStatus,
    Priority,
)
from contracts.transitions import Busy, Ended, Granted
from store.jobs import RedisJobStore
from tests.store.conftest import World
from tests.store.made import KEY, keys, led, new, result, status, submitted, taken

pytestmark = pytest.mark.anyio


async def test_jobs_are_taken_once_each_and_the_oldest_first(world: World) -> None:
    jobs = world.stores.jobs
    mine = await submitted(jobs, keys(20, "3"), "public")
    first = await taken(jobs, 8)
    assert [each.message.job_id for each in first] == mine[:8]
    rest = await asyncio.gather(*(taken(jobs, 8, f"w{i}") for i in range(5)))
    found = [each.message.job_id for page in rest for each in page]
    while page := await taken(jobs, 8):
        found += [each.message.job_id for each in page]
    assert sorted(found) == mine[8:], "none twice, none forgotten"
    lease = first[0].lease
    assert (lease.attempt, await status(jobs, lease.job_id)) == (1, JobStatus.RUNNING)
    assert (await jobs.succeed(lease, result())).applied


async def test_a_tenant_with_a_long_queue_does_not_delay_another(world: World) -> None:
    jobs = world.stores.jobs
    await submitted(jobs, keys(160), "greedy")
    for _ in range(4):
        await taken(jobs, 8)
    (other,) = await submitted(jobs, keys(1), "modest")
    assert await jobs.ahead("m", "interactive:somebody") == 1, "but for the other newcomer"
    assert await jobs.ahead("m", "interactive:greedy") == 129
    _, (position,) = await jobs.waiting("m", [other])
    assert position == 0
    assert (await taken(jobs, 1))[0].message.job_id == other


async def test_interactive_jobs_go_before_batch_jobs_which_never_starve(world: World) -> None:
    jobs = world.stores.jobs
    batch = await submitted(jobs, keys(64), "public", priority=Priority.BATCH, weight=1.0)
    await taken(jobs, 16)
    interactive = await submitted(jobs, keys(256), "public", priority=Priority.INTERACTIVE, weight=8.0)
    served = []
    for _ in range(20):
        served += [each.message.job_id for each in await taken(jobs, 8)]
    share = sum(each in batch for each in served) / len(served)
    assert 0.02 < share < 0.3
    assert sum(each in interactive for each in served) > 60


async def test_a_job_given_back_keeps_its_place(world: World) -> None:
    jobs = world.stores.jobs
    mine = await submitted(jobs, keys(6, "5"), "public")
    first = await taken(jobs, 2)
    await jobs.release(first[0].lease)
    assert [each.message.job_id for each in await taken(jobs, 2)] == [mine[0], mine[2]]


async def test_a_waiting_job_is_left_to_its_turn_unless_it_is_lost(world: World) -> None:
    jobs = world.stores.jobs
    (mine,) = await submitted(jobs, keys(1), "public")
    message = (await jobs.get("public", mine)).message()
    assert isinstance(await jobs.claim(message, "w1", leave_waiting=True), Busy)
    (first,) = await taken(jobs, 8)
    assert isinstance(await jobs.claim(message, "w2", leave_waiting=True), Busy)
    world.advance(11.0)
    claim = await jobs.claim(message, "w2", leave_waiting=True)
    assert isinstance(claim, Granted), "the lease has lapsed"
    assert not (await jobs.succeed(first.lease, result())).applied
    lost = message.model_copy(update={"job_id": new_job_id(time.time(), "a"), "key": KEY})
    assert isinstance(await jobs.claim(lost, "w1", leave_waiting=True), Busy)
    assert lost.job_id in {each.message.job_id for each in await taken(jobs, 8)}


async def test_what_cannot_be_done_in_time_expires_under_the_fence(world: World) -> None:
    jobs = world.stores.jobs
    lease = await led(jobs, new())
    follower = (await jobs.submit(new())).job
    finished = await jobs.expire(lease)
    assert finished.applied
    assert [message.job_id for message in finished.promoted] == [follower.id]
    assert await status(jobs, lease.job_id) is JobStatus.EXPIRED
    assert not (await jobs.expire(lease)).applied


async def test_a_job_past_its_deadline_is_not_taken_and_a_follower_takes_its_place(world: World) -> None:
    jobs = world.stores.jobs
    leader = new(ttl_s=5.0)
    await jobs.submit(leader)
    follower = (await jobs.submit(new(ttl_s=60.0))).job
    world.advance(6.0)
    answer = await jobs.take("m", "w1", 8)
    assert [message.job_id for message in answer.promoted] == [follower.id]
    assert await status(jobs, leader.id) is JobStatus.EXPIRED


async def test_a_job_taken_before_its_message_was_confirmed_is_published_all_the_same(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    await jobs.submit(job)
    (mine,) = await taken(jobs, 1)
    world.advance(6.0)
    stale, _ = await jobs.sweep(job.id[-1], 10)
    assert [message.job_id for message in stale] == [job.id], "its worker may die"
    assert (await jobs.succeed(mine.lease, result())).applied
    world.advance(6.0)
    assert await jobs.sweep(job.id[-1], 10) == ((), ())


async def test_a_dead_workers_job_waits_again_in_its_old_place(world: World) -> None:
    jobs, first, second = world.stores.jobs, new(), new("a" + "c" * 63)
    message = (await jobs.submit(first)).job.message()
    await jobs.confirm(first.id)
    (dead,) = await taken(jobs, 1)
    await jobs.submit(second)
    await jobs.confirm(second.id)
    world.advance(world.settings.lease_s + 0.1)
    assert (await jobs.waiting("m"))[0] == 1, "running, as far as anybody knows"
    assert await jobs.sweep(first.id[-1], 10) == ((), ()), "its message is with the broker, far back perhaps"
    again, *_ = (await jobs.take("m", "w2", 8)).jobs
    assert (again.message, again.lease.attempt) == (message, dead.lease.attempt + 1), "without its message"
    assert not (await jobs.succeed(dead.lease, result())).applied
    assert (await jobs.succeed(again.lease, result())).applied
    world.advance(2 * world.settings.lease_s)
    stale, _ = await jobs.sweep(first.id[-1], 10)
    assert first.id not in {each.job_id for each in stale}


async def test_a_message_that_is_older_than_the_store_keeps_ends_at_once(world: World) -> None:
    jobs, mine = world.stores.jobs, new()
    message = (await jobs.submit(mine)).job.message()
    back_s = world.settings.job_retention_s + 1000.0
    ancient = message.model_copy(
        update={
            "job_id": new_job_id(time.time() - back_s, KEY[0]),
            "created_at": message.created_at - back_s,
            "deadline": message.deadline - back_s,
        }
    )
    assert await jobs.claim(ancient, "w1") == Ended(JobStatus.EXPIRED)
    assert [job.id for job in await jobs.list(mine.tenant, 10)] == [mine.id], "the tenant's list stands"
    assert await status(jobs, mine.id) is JobStatus.QUEUED


async def test_a_record_that_cannot_be_read_spends_its_attempts_and_stops_nobody(world: World) -> None:
    jobs = world.stores.jobs
    assert isinstance(jobs, RedisJobStore)
    bad, *good = await submitted(jobs, keys(4, "5"), "public")
    request = '{"of": "another version"}'
    await jobs._client.hset(jobs.layout.job_key(bad), "request", request)
    found = await taken(jobs, 8)
    assert {each.message.job_id for each in found} == set(good)
    for each in found:
        assert (await jobs.succeed(each.lease, result())).applied
    for _ in range(world.settings.max_attempts):
        world.advance(world.settings.lease_s + 1)
        await jobs.sweep("5", 10)
        assert await taken(jobs, 8) == []
    assert await jobs._client.hget(jobs.layout.job_key(bad), "status") == "failed"
