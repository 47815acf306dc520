"""Submits while the broker, the store, the cache or the client itself goes away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.errors import BrokerUnavailable, QueueFull, StoreUnavailable
from contracts.jobs import JobStatus
from tests.api.conftest import ApiUnderTest

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("fault", [BrokerUnavailable("away"), QueueFull("full")])
async def test_a_broker_that_refuses_leaves_nothing_behind(
    api: ApiUnderTest, fault: BrokerUnavailable | QueueFull
) -> None:
    api.publisher.fault = fault
    response = await api.http.post("/v1/jobs", json={"prompt": "a red apple"})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == fault.code
    assert int(response.headers["retry-after"]) >= 1
    assert (await api.http.get("/v1/jobs")).json()["data"] == []
    assert (await api.http.get("/readyz")).status_code == 503
    api.publisher.fault = None
    assert (await api.submit())["cache"] == "miss"


async def test_a_refused_leader_hands_over_to_its_follower(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, failed = asyncio.Event(), asyncio.Event()
    publish = api.publisher.publish

    async def first_fails(message: Any) -> None:
        if failed.is_set():
            await publish(message)
            return
        failed.set()
        await gate.wait()
        raise BrokerUnavailable("away")

    monkeypatch.setattr(api.publisher, "publish", first_fails)
    leader = asyncio.create_task(api.http.post("/v1/jobs", json={"prompt": "a red apple"}))
    await failed.wait()
    follower = await api.submit()
    assert follower["cache"] == "joined"
    gate.set()
    assert (await leader).status_code == 503
    async with asyncio.timeout(5):
        while not api.publisher.published:
            await asyncio.sleep(0.01)
    assert api.publisher.published[0].job_id == follower["id"]


async def test_a_client_that_hangs_up_leaves_no_half_job(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    publish = api.publisher.publish

    async def slow(message: Any) -> None:
        begun.set()
        await gate.wait()
        await publish(message)

    monkeypatch.setattr(api.publisher, "publish", slow)
    asking = asyncio.create_task(api.http.post("/v1/jobs", json={"prompt": "a red apple"}))
    await begun.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    gate.set()
    async with asyncio.timeout(5):
        while not api.publisher.published:
            await asyncio.sleep(0.01)
    (job,) = await api.stores.jobs.list("public", 5)
    assert job.status is JobStatus.QUEUED


async def test_a_store_that_is_away_is_a_503_and_a_cache_that_is_away_a_miss(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("The store did not answer.")

    monkeypatch.setattr(api.stores.results, "get", away)
    assert (await api.submit())["cache"] == "miss"
    monkeypatch.setattr(api.stores.jobs, "submit_many", away)
    response = await api.http.post("/v1/jobs", json={"prompt": "a red apple"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "store_unavailable")
    assert "retry-after" in response.headers
