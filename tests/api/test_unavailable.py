"""Submits while the broker, the store, the cache or the client itself goes away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.errors import BrokerUnavailable, QueueFull, StoreUnavailable
from contracts.jobs import JobStatus
from tests.api.conftest import Door

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("fault", [BrokerUnavailable("away"), QueueFull("full")])
async def test_a_broker_that_refuses_leaves_nothing_behind(
    door: Door, fault: BrokerUnavailable | QueueFull
) -> None:
    door.publisher.fault = fault
    response = await door.http.post("/v1/jobs", json={"prompt": "a red apple"})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == fault.code
    assert int(response.headers["retry-after"]) >= 1
    assert (await door.http.get("/v1/jobs")).json()["data"] == []
    assert (await door.http.get("/readyz")).status_code == 503
    door.publisher.fault = None
    assert (await door.submit())["cache"] == "miss"


async def test_a_refused_leader_hands_over_to_its_follower(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, failed = asyncio.Event(), asyncio.Event()
    publish = door.publisher.publish

    async def first_fails(message: Any) -> None:
        if failed.is_set():
            await publish(message)
            return
        failed.set()
        await gate.wait()
        raise BrokerUnavailable("away")

    monkeypatch.setattr(door.publisher, "publish", first_fails)
    leader = asyncio.create_task(door.http.post("/v1/jobs", json={"prompt": "a red apple"}))
    await failed.wait()
    follower = await door.submit()
    assert follower["cache"] == "joined"
    gate.set()
    assert (await leader).status_code == 503
    async with asyncio.timeout(5):
        while not door.publisher.published:
            await asyncio.sleep(0.01)
    assert door.publisher.published[0].job_id == follower["id"]


async def test_a_client_that_hangs_up_leaves_no_half_job(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    publish = door.publisher.publish

    async def slow(message: Any) -> None:
        begun.set()
        await gate.wait()
        await publish(message)

    monkeypatch.setattr(door.publisher, "publish", slow)
    asking = asyncio.create_task(door.http.post("/v1/jobs", json={"prompt": "a red apple"}))
    await begun.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    gate.set()
    async with asyncio.timeout(5):
        while not door.publisher.published:
            await asyncio.sleep(0.01)
    (job,) = await door.stores.jobs.list("public", 5)
    assert job.status is JobStatus.QUEUED


async def test_a_store_that_is_away_is_a_503_and_a_cache_that_is_away_a_miss(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("The store did not answer.")

    monkeypatch.setattr(door.stores.results, "get", away)
    assert (await door.submit())["cache"] == "miss"
    monkeypatch.setattr(door.stores.jobs, "submit_many", away)
    response = await door.http.post("/v1/jobs", json={"prompt": "a red apple"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "store_unavailable")
    assert "retry-after" in response.headers
