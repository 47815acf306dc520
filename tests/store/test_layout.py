"""The layout of the job store: one setting, said by the store itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from contracts.errors import StoreUnavailable
from store.key_names import HOUSE
from store.layout import LAYOUT_KEY, LayoutGuard, LayoutMismatch, StoreLayout, require_layout
from store.stores import Stores
from tests.store.layouts import BEFORE, TIMEOUT_S, contents, settings_of
from tests.store.layouts import client as client
from tests.store.layouts import opened as opened
from tests.store.layouts import url as url
from tests.store.made import new


async def test_an_empty_store_takes_the_layout_of_its_first_process(url: str, client: Redis) -> None:
    await asyncio.gather(*(require_layout(settings_of(url, 4)) for _ in range(8)))
    assert json.loads(str(await client.get(LAYOUT_KEY))) == {"schema": 1, "shards": 4}
    with pytest.raises(LayoutMismatch, match=r"DARKROOM_STORE_SHARDS is 1,.* in 4: .*`darkroom migrate`"):
        await require_layout(settings_of(url, 1))


async def test_the_default_is_one_shard_and_sixteen_of_a_cluster(url: str, client: Redis) -> None:
    await require_layout(settings_of(url, None))
    shards = json.loads(str(await client.get(LAYOUT_KEY)))["shards"]
    assert shards == (BEFORE if "cluster" in url else 1)


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_a_store_of_before_has_sixteen_shards(
    url: str, client: Redis, opened: Callable[[int], Stores]
) -> None:
    """It says nothing of its layout. Its sweeper has left a mark in every shard."""
    jobs = opened(BEFORE).jobs
    for shard in jobs.shards:
        await jobs.steady(shard, None)
    await client.delete(LAYOUT_KEY)
    with pytest.raises(LayoutMismatch, match="set DARKROOM_STORE_SHARDS to 16"):
        await require_layout(settings_of(url, None))
    assert await client.get(LAYOUT_KEY) is None
    await require_layout(settings_of(url, BEFORE))
    assert json.loads(str(await client.get(LAYOUT_KEY)))["shards"] == BEFORE


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_a_layout_of_a_newer_version_is_left_to_it(url: str, client: Redis) -> None:
    await client.set(LAYOUT_KEY, '{"schema":2,"shards":1}')
    with pytest.raises(LayoutMismatch, match="schema 2, and this version knows 1"):
        await require_layout(settings_of(url, 1))
    await client.set(LAYOUT_KEY, '{"schema":1,"shards":"many"}')
    with pytest.raises(LayoutMismatch, match="cannot read"):
        await require_layout(settings_of(url, 1))
    await client.set(LAYOUT_KEY, '{"schema":1,"shards":1,"of":"the next"}')
    await require_layout(settings_of(url, 1))


async def test_a_process_that_met_the_store_later_records_nothing(
    client: Redis, opened: Callable[[int], Stores]
) -> None:
    """It was started while Redis was away, so nobody has stopped it."""
    await client.set(LAYOUT_KEY, StoreLayout(shards=16).to_json())
    stores = opened(2)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="DARKROOM_STORE_SHARDS is 2"):
            await stores.jobs.submit(new())
        with pytest.raises(StoreUnavailable, match="DARKROOM_STORE_SHARDS is 2"):
            await stores.webhooks.take("0", 1, 1.0)
    assert list(await contents(client)) == ["counts"]


async def test_a_process_that_met_the_store_later_finds_nothing_out(
    client: Redis, opened: Callable[[int], Stores]
) -> None:
    """What it does not find may be there: it says nothing of it."""
    job = new()
    await opened(16).jobs.submit(job)
    stores = opened(2)
    jobs = stores.jobs
    for ask in (
        lambda: jobs.get("public", job.id),
        lambda: jobs.list("public", 10),
        lambda: jobs.statuses([job.id]),
        lambda: jobs.owner(job.id),
        lambda: jobs.waiting("m", [job.id]),
        lambda: jobs.ahead("m", "interactive:public"),
        lambda: jobs.leaders([job.key]),
        lambda: jobs.take("m", "w", 1),
        lambda: jobs.confirm_many([job.id]),
        lambda: jobs.forget_landed([job.key]),
        lambda: stores.webhooks.due(),
    ):
        with pytest.raises(StoreUnavailable, match="DARKROOM_STORE_SHARDS is 2"):
            await ask()


async def test_who_keeps_house_sees_a_layout_that_changes_and_writes_one_that_is_gone(
    client: Redis, opened: Callable[[int], Stores]
) -> None:
    jobs = opened(1).jobs
    assert await jobs.take_sweeper_lease("me", 5.0)
    await client.flushall()
    assert await jobs.take_sweeper_lease("me", 5.0)
    assert json.loads(str(await client.get(LAYOUT_KEY)))["shards"] == 1
    await client.set(LAYOUT_KEY, StoreLayout(shards=2).to_json())
    with pytest.raises(StoreUnavailable, match="has changed"):
        await jobs.take_sweeper_lease("me", 5.0)
    with pytest.raises(StoreUnavailable, match="DARKROOM_STORE_SHARDS is 1"):
        await jobs.submit(new())
    await client.set(LAYOUT_KEY, StoreLayout(shards=1).to_json())
    assert (await jobs.submit(new())).lead


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_a_guard_asks_once(client: Redis) -> None:
    guard = LayoutGuard(client, 1, TIMEOUT_S)
    await guard.check()
    assert guard.passed
    assert await client.exists(f"{HOUSE}keeper") == 0


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_a_crowd_shares_one_look_at_the_layout(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    guard, looks = LayoutGuard(client, 1, TIMEOUT_S), list[int]()
    check = guard.check

    async def counted() -> None:
        looks.append(1)
        await check()

    monkeypatch.setattr(guard, "check", counted)
    async with asyncio.TaskGroup() as group:
        left = group.create_task(guard.require())
        group.create_task(cancelled_soon(left))
        for _ in range(50):
            group.create_task(guard.require())
    passed = guard.passed
    assert passed, "also when the first that asked has left"
    assert len(looks) == 2, "one look of its own for whoever waited, and no more"
    await client.set(LAYOUT_KEY, StoreLayout(shards=4).to_json())
    looks.clear()
    refused = await asyncio.gather(*(guard.again() for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in refused] == [StoreUnavailable] * 5
    assert not guard.passed
    assert len(looks) == 2, (
        "the first look had begun when the others came; they share the second one's refusal"
    )


async def cancelled_soon(task: asyncio.Task[None]) -> None:
    await asyncio.sleep(0)
    task.cancel()
