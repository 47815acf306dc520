"""A client that waits hears of its job from before it is published: nothing is read between the submit and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from api.end_listener import EndListener
from contracts.errors import StoreUnavailable
from contracts.jobs import Change, Job, JobEnd, JobStatus
from contracts.ports.job_events import ChangeListener
from store.events import parse_change
from tests.api.conftest import ApiUnderTest

pytestmark = pytest.mark.anyio

WAIT = {"Prefer": "wait=30"}
BODY = {"prompt": "a red apple"}


class Line:
    """Stands between the API and its events. The test supplies the notices of jobs; a new listener is noted."""

    def __init__(self, api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
        self.listeners: list[tuple[str, ChangeListener]] = []
        self.trips: list[str] = []
        self.away = False
        monkeypatch.setattr(api.stores.events, "subscribe", self.subscribe)
        for name in ("submit", "submit_many", "get", "statuses", "waiting"):
            monkeypatch.setattr(api.stores.jobs, name, self._noted(name, getattr(api.stores.jobs, name)))
        monkeypatch.setattr(api.publisher, "publish", self._noted("publish", api.publisher.publish))

    def _noted(self, name: str, real: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def noted(*given: Any, **named: Any) -> Any:
            self.trips.append(name)
            return await real(*given, **named)

        return noted

    @asynccontextmanager
    async def subscribe(self, job_id: str, listener: ChangeListener) -> Any:
        if self.away:
            raise StoreUnavailable("job events: away")
        self.trips.append("subscribe")
        self.listeners.append((job_id, listener))
        yield
        self.listeners.remove((job_id, listener))

    def notify(self, job_id: str, change: Change | None) -> None:
        for watched, listener in list(self.listeners):
            if watched == job_id:
                listener(change)


@pytest.fixture
def line(api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(api, monkeypatch)


def end_of(job: Job) -> JobEnd:
    fields = {name: getattr(job, name) for name in JobEnd.model_fields}
    end = parse_change(
        f"{job.status} {JobEnd(**fields).model_dump_json(exclude={'status'}, exclude_none=True)}"
    )
    assert isinstance(end, JobEnd)
    return end


async def held(
    api: ApiUnderTest, path: str = "/v1/jobs", headers: dict[str, str] = WAIT
) -> asyncio.Task[Any]:
    """A request that is held, once its job is published."""
    waiting = asyncio.create_task(api.http.post(path, json=BODY, headers=headers))
    async with asyncio.timeout(5):
        while not api.publisher.published:
            await asyncio.sleep(0)
    return waiting


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/images/generations"])
@pytest.mark.parametrize("headers", [WAIT, {**WAIT, "Idempotency-Key": "k"}])
async def test_it_listens_before_it_publishes_and_reads_nothing(
    api: ApiUnderTest, line: Line, path: str, headers: dict[str, str]
) -> None:
    waiting = await held(api, path, headers)
    ended = await api.work()
    line.trips.remove("get")  # the test's own
    line.notify(ended.id, JobStatus.RUNNING)
    line.notify(ended.id, end_of(ended))
    answer = await asyncio.wait_for(waiting, 5)
    assert answer.status_code == 200, answer.text
    assert line.trips == ["subscribe", "submit_many", "publish"]
    if path == "/v1/jobs":
        assert answer.json() == (await api.http.get(f"/v1/jobs/{ended.id}")).json()
    assert line.listeners == [], "nobody is left who listens"


async def test_an_end_without_its_result_leads_to_one_read(api: ApiUnderTest, line: Line) -> None:
    waiting = await held(api)
    ended = await api.work()
    line.trips.remove("get")
    line.notify(ended.id, JobStatus.SUCCEEDED)
    assert (await asyncio.wait_for(waiting, 5)).json()["status"] == "succeeded"
    assert line.trips == ["subscribe", "submit_many", "publish", "get"]


async def test_an_end_that_is_told_before_the_broker_has_confirmed_is_not_missed(
    api: ApiUnderTest, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = api.publisher.publish

    async def slow(message: Any) -> None:
        await publish(message)
        line.notify(message.job_id, end_of(await api.work(message)))

    monkeypatch.setattr(api.publisher, "publish", slow)
    answer = await asyncio.wait_for(api.http.post("/v1/jobs", json=BODY, headers=WAIT), 5)
    assert answer.json()["status"] == "succeeded"


async def test_a_line_that_is_lost_before_the_wait_is_opened_again(api: ApiUnderTest, line: Line) -> None:
    job_id = ""

    async def lost(message: Any) -> None:
        nonlocal job_id
        job_id = message.job_id
        line.notify(job_id, None)
        api.publisher.published.append(message)

    api.publisher.publish = lost  # type: ignore[method-assign]
    waiting = await held(api)
    async with asyncio.timeout(5):
        while line.trips.count("subscribe") < 2 or "get" not in line.trips:
            await asyncio.sleep(0)
    ended = await api.work()
    line.notify(job_id, end_of(ended))
    assert (await asyncio.wait_for(waiting, 5)).json()["status"] == "succeeded"


async def test_a_job_is_accepted_where_nothing_can_be_heard(api: ApiUnderTest, line: Line) -> None:
    line.away = True
    answer = await asyncio.wait_for(api.http.post("/v1/jobs", json=BODY, headers=WAIT), 5)
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


async def test_a_hit_that_the_store_finds_is_recorded_by_a_second_call(api: ApiUnderTest, line: Line) -> None:
    await api.submit()
    await api.work()
    line.trips.clear()
    answer = await api.http.post("/v1/jobs", json=BODY, headers=WAIT)
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "hit")
    assert line.trips == ["subscribe", "submit_many", "submit"]


async def test_who_left_before_it_listened_listens_to_nothing(api: ApiUnderTest, line: Line) -> None:
    async with EndListener(api.stores.events) as listener:
        pass
    await listener.listen("job_1")
    assert line.listeners == []


@pytest.mark.parametrize("rest", ["", " {", " []", ' {"finished_at": 1}', ' {"finished_at": "x"}'])
def test_an_end_that_this_version_cannot_read_is_its_status(rest: str) -> None:
    assert parse_change(f"failed{rest}") is JobStatus.FAILED


def test_words_in_a_result_may_have_spaces() -> None:
    told = (
        'succeeded {"finished_at": 2.0, "sequence": 3, "attempt": 1, "deadline": 9.0, "started_at": 1.0, "result": {"images": [], '
        '"timings": {"queued_ms": 1, "batch_ms": 2, "encode_ms": 3, "batch_size": 4}, "warnings": ["a b  c"]}}'
    )
    end = parse_change(told)
    assert isinstance(end, JobEnd)
    assert end.result is not None
    assert end.result.warnings == ("a b  c",)
    assert end.terminal


async def test_a_submit_is_answered_with_its_place_and_nothing_is_read(api: ApiUnderTest, line: Line) -> None:
    places = [(await api.submit(seed=seed))["queue_position"] for seed in range(3)]
    assert places == [0, 1, 2]
    assert line.trips == ["submit_many", "publish"] * 3
