"""Submits that meet in one process share a call to the store, and each has the answer that is its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from api.background import Background
from api.outbox import MAX_GROUP, Outbox
from cli.services.redis import RedisServer
from contracts.errors import QueueFull, StoreFull, StoreUnavailable
from contracts.settings import BackendSettings
from contracts.transitions import Submission, Submitted
from store.stores import open_stores
from tests.api.conftest import ApiUnderTest, Opener
from tests.publishers import RecordingPublisher
from tests.store.made import new

pytestmark = pytest.mark.anyio


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of its own, for a test to stop as it stands."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.send(signal.SIGCONT)
    server.stop()


class Calls:
    """The store's `submit_many`: how many jobs came with each call. The first waits until it is let go."""

    def __init__(self, api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = api.stores.jobs.submit_many
        self.groups: list[int] = []
        self.open = asyncio.Event()
        self.full = ""
        """The prompt of the job for which there is no room."""
        monkeypatch.setattr(api.stores.jobs, "submit_many", self._submit)

    async def _submit(self, asked: Sequence[Submission]) -> Sequence[Any]:
        self.groups.append(len(asked))
        await self.open.wait()
        answers = list(await self._real([each for each in asked if each.new.request.prompt != self.full]))
        for place, each in enumerate(asked):
            if each.new.request.prompt == self.full:
                answers.insert(place, StoreFull("Redis is full."))
        return answers


async def met(api: ApiUnderTest, calls: Calls, bodies: list[dict[str, Any]]) -> list[Any]:
    """The answers to requests of which all but the first come while the first one's call is on its way."""
    first = asyncio.create_task(api.http.post("/v1/jobs", json=bodies[0]))
    async with asyncio.timeout(5):
        while not calls.groups:
            await asyncio.sleep(0)
    others = [asyncio.create_task(api.http.post("/v1/jobs", json=body)) for body in bodies[1:]]
    transport: Any = api.http._transport
    waiting = transport.app.state.services.jobs._outbox._records._waiting
    async with asyncio.timeout(5):
        while len(waiting) < len(others):
            await asyncio.sleep(0)
    calls.open.set()
    return await asyncio.wait_for(asyncio.gather(first, *others), 10)


async def test_those_that_come_meanwhile_make_one_call(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(api, monkeypatch)
    answers = await met(api, calls, [{"prompt": f"number {number}"} for number in range(20)])
    assert [answer.status_code for answer in answers] == [202] * 20
    assert len({answer.json()["id"] for answer in answers}) == 20
    assert calls.groups == [1, 19]
    assert sorted(answer.json()["queue_position"] for answer in answers) == list(range(20))
    assert len(api.publisher.published) == 20


async def test_what_is_refused_of_a_group_costs_no_other(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(api, monkeypatch)
    calls.full = "no room"
    late = {"prompt": "too late", "num_images": 4, "num_inference_steps": 4, "timeout_seconds": 1}
    bodies: list[dict[str, Any]] = [
        {"prompt": "first"},
        {"prompt": "a"},
        {"prompt": "no room"},
        late,
        {"prompt": "a"},
        {"prompt": "b"},
    ]
    answers = await met(api, calls, bodies)
    told = [
        (each.status_code, (each.json().get("error") or {}).get("code", each.json().get("cache")))
        for each in answers
    ]
    assert told == [
        (202, "miss"),
        (202, "miss"),
        (503, "store_full"),
        (503, "queue_full"),
        (202, "joined"),
        (202, "miss"),
    ]
    assert calls.groups == [1, 5]
    assert {message.request.prompt for message in api.publisher.published} == {"first", "a", "b"}


async def test_alone_it_waits_for_nobody(api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(api, monkeypatch)
    calls.open.set()
    for number in range(3):
        await api.submit(prompt=f"number {number}")
    assert calls.groups == [1, 1, 1]


async def test_a_store_that_answers_nobody_is_waited_for_so_long_and_no_longer(
    hung: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.outbox.QUEUE_S", 0.1)
    stores = open_stores(
        BackendSettings.model_validate(
            {"redis_url": hung.url, "redis_timeout_s": 0.5, "blob_dir": tmp_path / "blobs"}
        )
    )
    real, groups = stores.jobs.submit_many, []

    async def submit_many(asked: Sequence[Submission]) -> Sequence[Any]:
        groups.append(len(asked))
        return await real(asked)

    monkeypatch.setattr(stores.jobs, "submit_many", submit_many)
    outbox = Outbox(stores.jobs, RecordingPublisher(), Background(), 0.5)

    def record() -> asyncio.Task[Any]:
        return asyncio.create_task(outbox.record(Submission(new()), lambda _: QueueFull("never")))

    try:
        assert isinstance(await record(), Submitted)
        hung.send(signal.SIGSTOP)
        crowd = [record() for _ in range(10 * MAX_GROUP)]
        outcomes = await asyncio.wait_for(asyncio.gather(*crowd, return_exceptions=True), 30)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        assert len(groups) <= 5, "the others were let go before their turn"
        hung.send(signal.SIGCONT)
        assert isinstance(await asyncio.wait_for(record(), 30), Submitted)
    finally:
        hung.send(signal.SIGCONT)
        await stores.close()


async def test_a_cache_that_hangs_holds_up_nobody_who_does_not_ask_it(
    opened: Opener, hung: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await opened(cache_redis_url=hung.url)
    look, asked = api.stores.results.get, asyncio.Event()

    async def get(address: str) -> Any:
        asked.set()
        return await look(address)

    monkeypatch.setattr(api.stores.results, "get", get)
    hung.send(signal.SIGSTOP)
    waiting = asyncio.create_task(api.submit(prompt="a"))
    await asyncio.wait_for(asked.wait(), 5)
    assert (await asyncio.wait_for(api.submit(prompt="b", cache="off"), 5))["cache"] == "miss"
    assert not waiting.done()
    hung.send(signal.SIGCONT)
    assert (await asyncio.wait_for(waiting, 10))["cache"] == "miss"
