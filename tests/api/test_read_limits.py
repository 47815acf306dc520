"""What one key may have at once, and that many who follow one job cost one read a change."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client import REGISTRY

from api.read_limits import ReadRate, Shares
from contracts.errors import QuotaExceeded
from contracts.jobs import Job
from runtime.clock import ManualClock
from tests.api.conftest import ADMIN, ApiUnderTest, Opener
from tests.api.test_events import PATIENCE_S, claimed, opened_stream

pytestmark = pytest.mark.anyio

MANY = 1000


async def key_of(api: ApiUnderTest, tenant: str) -> dict[str, str]:
    made = await api.http.post("/v1/keys", json={"tenant": tenant, "name": "k"}, headers=ADMIN)
    assert made.status_code == 201, made.text
    return {"X-API-Key": made.json()["key"]}


class Reads:
    """Counts the reads of jobs from the store."""

    def __init__(self, api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        get = api.stores.jobs.get

        async def counted(tenant: str, job_id: str) -> Job:
            self.count += 1
            return await get(tenant, job_id)

        monkeypatch.setattr(api.stores.jobs, "get", counted)


async def test_a_thousand_streams_of_one_job_are_one_read_a_change(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await opened(max_event_streams=MANY, max_event_streams_per_key=MANY)
    job = await api.submit(num_inference_steps=2)
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(opened_stream(api, job["id"])) for _ in range(MANY)]
        for stream in streams:
            assert (await stream.next()).name == "snapshot"
        reads = Reads(api, monkeypatch)
        lease = await claimed(api)
        for stream in streams:
            assert (await stream.next()).data["status"] == "running"
        await api.stores.jobs.progress(lease, 1, 2)
        for stream in streams:
            assert (await stream.next()).data == {"step": 1, "steps": 2}
        # Two changes, and a look in between where the machine is slow. The claim reads the record itself.
        assert reads.count <= 10


async def test_a_hundred_waits_for_one_job_are_read_together(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await api.submit()
    waiting = [
        asyncio.create_task(api.http.get(job["urls"]["self"], headers={"Prefer": "wait=30"}))
        for _ in range(100)
    ]
    async with asyncio.timeout(PATIENCE_S):
        while REGISTRY.get_sample_value("darkroom_waiters") != 100:
            await asyncio.sleep(0.01)
    reads = Reads(api, monkeypatch)
    await api.work()
    answers = await asyncio.gather(*waiting)
    assert {answer.json()["status"] for answer in answers} == {"succeeded"}
    assert reads.count <= 10


async def test_a_client_that_joins_others_is_never_told_what_is_older_than_it_knows(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reading that was under way when it came may be older than what it heard from another process."""
    job = await api.submit(num_inference_steps=2)
    get = api.stores.jobs.get
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tenant: str, job_id: str) -> Job:
        found = await get(tenant, job_id)
        if not begun.is_set():
            begun.set()
            await go_on.wait()
        else:
            for _ in range(10):  # others have their turn, as with a real store
                await asyncio.sleep(0)
        return found

    async with opened_stream(api, job["id"]) as first:
        await first.next()
        monkeypatch.setattr(api.stores.jobs, "get", slow)
        lease = await claimed(api)
        async with asyncio.timeout(PATIENCE_S):
            await begun.wait()
        await api.stores.jobs.progress(lease, 1, 2)
        known = (await get("public", job["id"])).sequence
        async with opened_stream(api, job["id"], known) as second:
            # It has joined: a read of its own would have been answered at once.
            async with asyncio.timeout(PATIENCE_S):
                while REGISTRY.get_sample_value("darkroom_event_streams") != 2:
                    await asyncio.sleep(0)
            await api.stores.jobs.progress(lease, 2, 2)
            go_on.set()
            events = [await second.next()]
            while events[-1].name != "progress":
                events.append(await second.next())
    assert [event.name for event in events] == ["status", "progress"]
    assert events[-1].data == {"step": 2, "steps": 2}
    assert (events[-1].id or 0) > known


async def test_streams_are_bounded_by_key_and_others_have_room(opened: Opener) -> None:
    api = await opened(max_event_streams_per_key=2, allow_anonymous=True)
    mine, theirs = await key_of(api, "a"), await key_of(api, "b")
    job = (await api.http.post("/v1/jobs", json={"prompt": "x"}, headers=mine)).json()
    other = (await api.http.post("/v1/jobs", json={"prompt": "x"}, headers=theirs)).json()
    async with AsyncExitStack() as stack:
        for _ in range(2):
            stream = await stack.enter_async_context(opened_stream(api, job["id"], key=mine["X-API-Key"]))
            await stream.next()
        refused = await api.http.get(job["urls"]["events"], headers=mine)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (429, "quota_exceeded")
        assert error["details"] == {"limit": "event_streams"}
        assert int(refused.headers["retry-after"]) >= 1
        stream = await stack.enter_async_context(opened_stream(api, other["id"], key=theirs["X-API-Key"]))
        assert (await stream.next()).name == "snapshot"
    async with opened_stream(api, job["id"], key=mine["X-API-Key"]) as stream:
        await stream.next()


async def test_waits_are_bounded_by_key_and_others_are_held(opened: Opener) -> None:
    api = await opened(max_waits_per_key=1, allow_anonymous=True)
    mine, theirs = await key_of(api, "a"), await key_of(api, "b")
    job = (await api.http.post("/v1/jobs", json={"prompt": "x"}, headers=mine)).json()
    other = (await api.http.post("/v1/jobs", json={"prompt": "x"}, headers=theirs)).json()

    def wait(url: str, key: dict[str, str], seconds: int) -> Any:
        return asyncio.create_task(api.http.get(url, headers={**key, "Prefer": f"wait={seconds}"}))

    held = wait(job["urls"]["self"], mine, 30)
    async with asyncio.timeout(PATIENCE_S):
        while REGISTRY.get_sample_value("darkroom_waiters") != 1:
            await asyncio.sleep(0.01)
    as_it_stands = await wait(job["urls"]["self"], mine, 30)
    assert (as_it_stands.status_code, as_it_stands.json()["status"]) == (200, "queued")
    assert int(as_it_stands.headers["retry-after"]) >= 1
    assert "preference-applied" not in as_it_stands.headers
    # OpenAI's route has no other answer than the pictures.
    openai = await api.http.post("/v1/images/generations", json={"prompt": "y"}, headers=mine)
    assert (openai.status_code, openai.json()["error"]["details"]) == (429, {"limit": "waits"})
    assert (await wait(other["urls"]["self"], theirs, 1)).headers["preference-applied"] == "wait=1"
    await api.http.post(job["urls"]["cancel"], headers=mine)
    assert (await held).json()["status"] == "canceled"


async def test_reads_have_a_rate_by_key(opened: Opener) -> None:
    api = await opened(reads_per_minute=60, allow_anonymous=True)
    mine, theirs = await key_of(api, "a"), await key_of(api, "b")
    statuses = [(await api.http.get("/v1/jobs", headers=mine)).status_code for _ in range(15)]
    assert statuses == [200] * 10 + [429] * 5
    refused = await api.http.get("/v1/jobs", headers=mine)
    assert refused.json()["error"]["details"] == {"limit": "reads_per_minute"}
    # The sixth that is refused, at one a second.
    assert refused.headers["retry-after"] == "6"
    assert (await api.http.get("/v1/jobs", headers=theirs)).status_code == 200
    # Submits have limits of their own.
    assert (await api.http.post("/v1/jobs", json={"prompt": "x"}, headers=mine)).status_code == 202
    api.clock.advance(1.0)
    assert (await api.http.get("/v1/jobs", headers=mine)).status_code == 200


def test_a_rate_below_one_in_its_burst_allows_one() -> None:
    clock = ManualClock()
    rate = ReadRate(1.0, clock)
    rate.charge("a")
    with pytest.raises(QuotaExceeded) as refused:
        rate.charge("a")
    assert refused.value.retry_after_s == pytest.approx(60.0)
    rate.charge("b")
    clock.advance(60.0)
    rate.charge("a")


def test_shares_count_what_is_held_and_forget_who_holds_nothing() -> None:
    shares = Shares("waits", 3, 2)
    full = []
    with shares.one("a"), shares.one("a"):
        assert not shares.has_room("a")
        assert shares.has_room("b")
        full.append(shares.full)
        with shares.one("b"):
            full.append(shares.full)
    full.append(shares.full)
    assert full == [False, True, False]
    assert shares.has_room("a")
    assert not shares._held


async def test_others_have_their_turn_while_many_are_told_of_a_change(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a change's first event and its last, the event loop goes round many times."""
    api = await opened(max_event_streams=MANY, max_event_streams_per_key=MANY)
    job = await api.submit(num_inference_steps=2)
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(opened_stream(api, job["id"])) for _ in range(MANY)]
        for stream in streams:
            assert (await stream.next()).name == "snapshot"
        most, had = 0, 0

        async def watch() -> None:
            nonlocal most, had
            while True:
                now = sum(not stream.arrived.empty() for stream in streams)
                most, had = max(most, now - had), now
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await claimed(api)
        async with asyncio.timeout(PATIENCE_S):
            while had < MANY:
                await asyncio.sleep(0)
        watching.cancel()
    assert most <= MANY // 10


def test_reads_that_are_refused_are_told_to_come_again_one_after_the_other() -> None:
    clock = ManualClock()
    rate = ReadRate(600, clock)

    def refused_for_s(holder: str = "a") -> float:
        with pytest.raises(QuotaExceeded) as refused:
            rate.charge(holder)
        return refused.value.retry_after_s or 0.0

    for _ in range(100):
        rate.charge("a")
        rate.charge("b")
    for number in range(1, 51):
        assert refused_for_s() == pytest.approx(number / 10, abs=1e-3)
    assert refused_for_s("b") == pytest.approx(0.1, abs=1e-3)
    assert max(refused_for_s() for _ in range(1000)) <= 60
    clock.advance(120)
    for _ in range(100):
        rate.charge("a")
    assert refused_for_s() == pytest.approx(0.1, abs=1e-3)
