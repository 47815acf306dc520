"""Deadlines and the outbox: what a sweep expires and what it publishes again."""

from __future__ import annotations

import pytest

from contracts.jobs import (
    JobStatus,
)
from contracts.transitions import Ended
from tests.store.conftest import World
from tests.store.made import led, new, result, status

pytestmark = pytest.mark.anyio


async def test_the_sweep_expires_jobs_and_promotes_their_followers(world: World) -> None:
    jobs = world.stores.jobs
    queued, follower, other = new(ttl_s=5.0), new(ttl_s=50.0), new("a" + "c" * 63, ttl_s=50.0)
    for job in (queued, follower, other):
        await jobs.submit(job)
        await jobs.confirm(job.id)
    world.advance(5.1)
    stale, promoted = await jobs.sweep("a", 10)
    assert stale == ()
    assert [message.job_id for message in promoted] == [follower.id]
    assert await status(jobs, queued.id) is JobStatus.EXPIRED
    assert await status(jobs, other.id) is JobStatus.QUEUED


async def test_a_running_job_expires_too_and_its_result_comes_too_late(world: World) -> None:
    jobs, job = world.stores.jobs, new(ttl_s=5.0)
    lease = await led(jobs, job)
    world.advance(5.1)
    await jobs.sweep("a", 10)
    assert await status(jobs, job.id) is JobStatus.EXPIRED
    assert not (await jobs.succeed(lease, result())).applied


async def test_a_claim_past_the_deadline_expires_the_job(world: World) -> None:
    jobs, job = world.stores.jobs, new(ttl_s=5.0)
    message = (await jobs.submit(job)).job.message()
    world.advance(5.1)
    assert await jobs.claim(message, "w1") == Ended(JobStatus.EXPIRED)
    assert await status(jobs, job.id) is JobStatus.EXPIRED


async def test_the_sweep_answers_what_was_never_confirmed_once_per_interval(world: World) -> None:
    jobs, job, sure = world.stores.jobs, new(), new("a" + "d" * 63)
    message = (await jobs.submit(job)).job.message()
    await jobs.submit(sure)
    await jobs.confirm(sure.id)
    assert await jobs.sweep("a", 10) == ((), ()), "not yet"
    world.advance(6)
    stale, _ = await jobs.sweep("a", 10)
    assert list(stale) == [message]
    assert (await jobs.sweep("a", 10))[0] == (), "another sweeper leaves it alone"
    world.advance(6)
    assert list((await jobs.sweep("a", 10))[0]) == [message]
    await jobs.confirm(job.id)
    world.advance(6)
    assert (await jobs.sweep("a", 10))[0] == ()


async def test_the_sweep_is_bounded(world: World) -> None:
    jobs = world.stores.jobs
    for i in range(7):
        await jobs.submit(new(f"a{i:063d}", ttl_s=5.0))
    world.advance(6)
    ended = []
    for _ in range(4):
        before = len([j for j in await jobs.list("public", 10) if j.status is JobStatus.EXPIRED])
        await jobs.sweep("a", 2)
        ended.append(
            len([j for j in await jobs.list("public", 10) if j.status is JobStatus.EXPIRED]) - before
        )
    assert ended == [2, 2, 2, 1]
