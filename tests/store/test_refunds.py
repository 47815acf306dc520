"""Refunds of blocked jobs: owed by the script that ends them, and paid once, whichever process dies in between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.errors import ContentBlocked
from contracts.jobs import JobFailure, NewJob, Origin
from contracts.tenancy import Charge, Limits
from contracts.transitions import End, Finished
from tests.store.conftest import World
from tests.store.made import led, new

pytestmark = pytest.mark.anyio

LIMITS = Limits(images_per_day=9)
KEYS = ("dk_11111111", "dk_22222222")
BLOCKED = JobFailure(code=ContentBlocked.code, message="blocked")


async def blocked(world: World, images: int = 2) -> None:
    """Charges a job and one that joins it, each to its own key, and ends the first as a worker does that dies then."""
    leader, follower = (new().model_copy(update={"origin": Origin(key_id=key)}) for key in KEYS)
    for key, job in zip(KEYS, (leader, follower), strict=True):
        await charge(world, key, job, images)
    lease = await led(world.stores.jobs, leader)
    await world.stores.jobs.submit(follower)
    end = End(lease, BLOCKED, refund=images)
    assert await world.stores.jobs.end_many([end, end]) == [Finished(True), Finished(False)]


async def charge(world: World, key: str, job: NewJob, images: int) -> None:
    account = await world.stores.quotas.admit(key, LIMITS, Charge(job.id, images, computed=True))
    assert not account.refused


async def images_of(world: World, key: str) -> int:
    """How many images the key was charged today."""
    return (await world.stores.quotas.admit(key, LIMITS, Charge("job_x", 0, computed=False))).images


async def test_the_end_of_a_blocked_job_owes_what_it_and_its_followers_were_charged(world: World) -> None:
    await blocked(world)
    assert [await images_of(world, key) for key in KEYS] == [2, 2], "nobody has paid yet"
    assert await world.stores.refunds.pay(10) == 2
    assert [await images_of(world, key) for key in KEYS] == [0, 0]
    assert await world.stores.refunds.pay(10) == 0


async def test_a_refund_is_paid_once_although_its_process_dies_before_it_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in KEYS:
        await charge(world, key, new(), 3)
    await blocked(world)
    client = world.stores.refunds._client  # type: ignore[attr-defined]

    async def dead(*_: Any) -> None:
        raise asyncio.CancelledError

    for _ in range(2):
        with monkeypatch.context() as dying:
            dying.setattr(client, "zrem", dead)
            with pytest.raises(asyncio.CancelledError):
                await world.stores.refunds.pay(10)
    assert await world.stores.refunds.pay(10) == 2
    assert [await images_of(world, key) for key in KEYS] == [3, 3]


async def test_a_refund_goes_to_the_day_of_the_charge(world: World) -> None:
    await blocked(world)
    world.advance(86_400)
    for key in KEYS:
        await charge(world, key, new(), 3)
    assert await world.stores.refunds.pay(10) == 2
    assert [await images_of(world, key) for key in KEYS] == [3, 3]


async def test_a_job_that_nobody_limits_or_that_fails_otherwise_is_owed_nothing(world: World) -> None:
    job = new()
    await world.stores.jobs.end_many([End(await led(world.stores.jobs, job), BLOCKED, refund=1)])
    other = new().model_copy(update={"origin": Origin(key_id=KEYS[0])})
    failure = JobFailure(code="generation_failed", message="no")
    await world.stores.jobs.end_many([End(await led(world.stores.jobs, other), failure)])
    assert await world.stores.refunds.pay(10) == 0
