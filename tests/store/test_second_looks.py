"""Second looks in the store: owed with the end of a job, granted once, and gone with their review."""

from __future__ import annotations

import asyncio

import pytest

from contracts.jobs import NewJob
from contracts.reviews import Review, SecondLook
from contracts.second_look import LookCall
from contracts.transitions import End, Finished
from tests.store.answers import address
from tests.store.conftest import World
from tests.store.held import held_image, image, result_of
from tests.store.made import led, name, new

pytestmark = pytest.mark.anyio

LEASE_S = 60.0


async def end_held(world: World, job: NewJob, number: int = 1, *, look: bool = True) -> NewJob:
    held = held_image(number).model_copy(update={"second_look": look})
    end = End(await led(world.stores.jobs, job), result_of(image(number)), address(job), held=(held,))
    # A second time the lease does not hold: nothing is owed twice.
    assert await world.stores.jobs.end_many([end, end]) == [Finished(applied=True), Finished(applied=False)]
    return job


async def taken(world: World, lease_s: float = LEASE_S) -> list[LookCall]:
    looks = world.stores.looks
    return [call for shard in looks.shards for call in await looks.take(shard, 100, lease_s)]


async def the_review(world: World, number: int = 1) -> Review:
    (review,) = await world.stores.reviews.find(name(number))
    return review


def said(outcome: str) -> SecondLook:
    return SecondLook.model_validate({"outcome": outcome, "model": "m", "policy": "p@1", "at": 1.0})


async def test_a_look_is_owed_with_the_end_once_and_only_where_it_is_wanted(world: World) -> None:
    await end_held(world, new("1" * 64), 1)
    await end_held(world, new("2" * 64), 2, look=False)
    assert await world.stores.looks.due() == 1
    (call,) = await taken(world)
    assert call == LookCall(review=(await the_review(world)).id, attempt=1)
    assert call.name == name(1)
    assert await taken(world) == [], "it is taken"
    world.advance(LEASE_S + 1)
    assert await taken(world) == [call], "whoever took it has died"


async def test_the_same_image_of_another_job_owes_no_second_look(world: World) -> None:
    await end_held(world, new("1" * 64), 1)
    (call,) = await taken(world)
    assert await world.stores.looks.begin(call, LEASE_S) is not None
    assert await world.stores.looks.settle(call, None)
    other = new("1" * 63 + "2")
    await end_held(world, other.model_copy(update={"id": other.id[:-1] + call.review[-1]}), 1)
    assert await taken(world) == []


async def test_an_attempt_is_granted_once_and_fenced(world: World) -> None:
    looks = world.stores.looks
    await end_held(world, new())
    (call,) = await taken(world)
    duty = await looks.begin(call, LEASE_S)
    assert duty is not None
    assert abs(duty.owed_at - (await the_review(world)).created_at) < 0.001
    assert await looks.begin(call, LEASE_S) is None, "another process has it"
    world.advance(LEASE_S + 1)
    assert await looks.begin(call, LEASE_S) == duty, "whoever had it has died"
    assert await looks.settle(call, 30.0)
    assert not await looks.settle(call, None), "a later attempt has fenced it off"
    assert await taken(world) == []
    world.advance(31)
    (again,) = await taken(world)
    assert again.attempt == 2
    assert await looks.begin(call, LEASE_S) is None
    assert await looks.begin(again, LEASE_S) is not None
    assert await looks.settle(again, None)
    world.advance(1000)
    assert (await taken(world), await looks.due()) == ([], 0)


async def test_a_lease_of_a_clock_that_was_ahead_holds_nobody_up(world: World) -> None:
    await end_held(world, new())
    world.advance(3 * 86_400)
    (call,) = await taken(world)
    await world.stores.looks.begin(call, LEASE_S)
    world.advance(-3 * 86_400)
    assert await taken(world) == [call]
    assert await world.stores.looks.begin(call, LEASE_S) is not None


async def test_the_first_answer_of_the_model_stands(world: World) -> None:
    looks = world.stores.looks
    await end_held(world, new())
    id_ = (await the_review(world)).id
    assert await looks.note(id_, said("away")) == said("away")
    assert await looks.note(id_, said("release")) == said("release"), "it has answered after all"
    assert await looks.note(id_, said("refuse")) == said("release")
    assert await looks.note(id_, said("away")) == said("release")
    assert (await the_review(world)).second_look == said("release")
    assert await looks.note(f"{name(9)}:0", said("release")) is None


async def test_the_budget_is_one_for_all_and_new_every_hour(world: World) -> None:
    looks = world.stores.looks
    granted = await asyncio.gather(*(looks.spend(3) for _ in range(9)))
    assert granted.count(True) == 3
    world.advance(3600)
    assert await looks.spend(3)


async def test_what_is_owed_goes_with_the_review(world: World) -> None:
    job = await end_held(world, new())
    (call,) = await taken(world)
    assert await world.stores.reviews.erase(call.review, job.tenant, [job.id])
    assert await world.stores.looks.begin(call, LEASE_S) is None
    world.advance(LEASE_S + 1)
    assert (await taken(world), await world.stores.looks.due()) == ([], 0)


async def test_who_waits_hears_of_it(world: World) -> None:
    wakes = world.stores.looks.wakes()
    heard = asyncio.ensure_future(anext(wakes))
    await asyncio.sleep(0)
    number = 1
    async with asyncio.timeout(60):
        while not heard.done():  # it may not listen yet
            await end_held(world, new(f"{number:064x}"), number)
            number += 1
            await asyncio.wait([heard], timeout=0.2)
    assert heard.result() in world.stores.looks.shards
    await wakes.aclose()  # type: ignore[attr-defined]
