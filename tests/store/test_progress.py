"""The contract of the job store: what is told of a job on its way."""

from __future__ import annotations

import asyncio

import pytest

from contracts.jobs import (
    Preview,
    Progress,
)
from tests.store.conftest import World, watching
from tests.store.made import FAILURE, claimed, led, new, result

pytestmark = pytest.mark.anyio


async def test_every_change_is_counted_and_steps_are_remembered(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    first = (await jobs.submit(job)).job
    lease = await claimed(jobs, job.id)
    running = await jobs.get("public", job.id)
    assert running.sequence > first.sequence
    assert running.progress is None
    for step in (1, 2):
        assert await jobs.progress(lease, step, 4)
    drawn = await jobs.get("public", job.id)
    assert drawn.progress == Progress(step=2, steps=4)
    assert drawn.sequence == running.sequence + 2
    assert (await jobs.succeed(lease, result())).applied
    ended = await jobs.get("public", job.id)
    assert ended.sequence == drawn.sequence + 1
    assert not await jobs.progress(lease, 3, 4), "ended: nothing is left to tell"
    assert await jobs.get("public", job.id) == ended


async def test_a_preview_is_told_to_leader_and_followers_and_changes_nothing(world: World) -> None:
    jobs, leader, follower = world.stores.jobs, new(), new()
    lease = await led(jobs, leader)
    await jobs.submit(follower)
    before = [await jobs.get("public", each.id) for each in (leader, follower)]
    async with (
        watching(world.stores.events, leader.id) as mine,
        watching(world.stores.events, follower.id) as theirs,
        asyncio.timeout(5),
    ):
        assert await jobs.preview(lease, Preview(index=1, name="0f.png"))
        assert [await anext(each) for each in (mine, theirs)] == [Preview(index=1, name="0f.png")] * 2
    assert [await jobs.get("public", each.id) for each in (leader, follower)] == before
    assert (await jobs.succeed(lease, result())).applied
    assert not await jobs.preview(lease, Preview(index=2, name="0f.png")), "ended: nothing is left to show"


async def test_steps_of_a_lost_lease_are_refused_and_a_new_attempt_begins_without(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    lease = await led(jobs, job)
    await jobs.progress(lease, 3, 4)
    world.advance(world.settings.lease_s + 1)
    second = await claimed(jobs, job.id, "w2")
    assert (await jobs.get("public", job.id)).progress is None
    assert not await jobs.progress(lease, 4, 4)
    assert (await jobs.get("public", job.id)).progress is None
    await jobs.progress(second, 1, 4)
    assert await jobs.release(second)
    assert (await jobs.get("public", job.id)).progress is None


async def test_followers_see_the_steps_of_their_leader_until_they_lead(world: World) -> None:
    jobs, leader, follower = world.stores.jobs, new(), new()
    lease = await led(jobs, leader)
    await jobs.submit(follower)
    await jobs.progress(lease, 1, 2)
    followed = await jobs.get("public", follower.id)
    assert (followed.progress, followed.sequence) == (Progress(step=1, steps=2), 1)
    await jobs.fail(lease, FAILURE)
    assert (await jobs.get("public", follower.id)).progress is None
