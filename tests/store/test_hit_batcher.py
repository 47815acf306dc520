"""Cache hits are recorded together: each is answered for itself, and who has left is not recorded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backends.redis_client import connect
from contracts.errors import RecordUnreadable, StoreUnavailable
from contracts.jobs import JobStatus
from contracts.transitions import Submitted
from store.audit import audit
from store.scripts import Scripts
from tests.store.answers import store_of
from tests.store.conftest import World
from tests.store.made import new, result

pytestmark = pytest.mark.anyio


async def test_a_hit_that_breaks_fails_alone(world: World) -> None:
    """Of hits that share a call: one whose record is there and cannot be read, and one whose tenant's list is none."""
    jobs, layout = world.stores.jobs, store_of(world).layout
    client = connect(world.settings.redis_url, 2.0)
    known, odd = new(), new(tenant="odd")
    await jobs.submit(known, result())
    await client.hset(layout.job_key(known.id), "request", "{}")
    await client.set(f"{layout.job_prefix(odd.id)}tenant:odd", "no list")
    hits = [new(), known, new(), odd, new()]
    answers = await asyncio.gather(*(jobs.submit(each, result()) for each in hits), return_exceptions=True)
    assert isinstance(answers[1], RecordUnreadable)
    assert isinstance(answers[3], StoreUnavailable)
    for place in (0, 2, 4):
        answer = answers[place]
        assert isinstance(answer, Submitted), answer
        assert answer.job == await jobs.get("public", hits[place].id)
    await client.aclose()


async def test_a_hit_whose_caller_has_left_is_not_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that wait while a call is on its way. The others of their group are."""
    gate, begun, run = asyncio.Event(), asyncio.Event(), Scripts.run

    async def gated(scripts: Scripts, name: str, *rest: Any) -> Any:
        if name == "hit":
            begun.set()
            await gate.wait()
        return await run(scripts, name, *rest)

    monkeypatch.setattr(Scripts, "run", gated)
    jobs, hits = world.stores.jobs, [new() for _ in range(4)]
    first = asyncio.create_task(jobs.submit(hits[0], result()))
    await begun.wait()
    stays, leaves, also_stays = [asyncio.create_task(jobs.submit(each, result())) for each in hits[1:]]
    # Each has had its turn of the loop, and waits for the group that comes next.
    await asyncio.sleep(0)
    leaves.cancel()
    gate.set()
    await asyncio.gather(first, stays, also_stays)
    assert leaves.cancelled()
    assert await jobs.statuses([each.id for each in hits]) == [
        JobStatus.SUCCEEDED,
        JobStatus.SUCCEEDED,
        None,
        JobStatus.SUCCEEDED,
    ]
    client = connect(world.settings.redis_url, 2.0)
    books = await audit(client, 2.0)
    assert books.differences == []
    await client.aclose()


async def test_a_call_that_is_cancelled_leaves_no_hit_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def stuck(scripts: Scripts, name: str, *rest: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Scripts, "run", stuck)
    before = asyncio.all_tasks()
    hits = [asyncio.create_task(world.stores.jobs.submit(new(), result())) for _ in range(2)]
    await begun.wait()
    (worker,) = asyncio.all_tasks() - before - set(hits)
    hits.append(asyncio.create_task(world.stores.jobs.submit(new(), result())))
    await asyncio.sleep(0)
    worker.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait(hits)
    assert all(each.cancelled() for each in hits)
