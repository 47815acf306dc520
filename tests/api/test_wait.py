"""Who is held for a job: what lets them go, and what holding them costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from api.long_poll import Waiters
from api.read_limits import Shares
from contracts.jobs import Job, JobStatus
from contracts.ports.job_events import ChangeListener
from store.events import Watchers
from tests.api.conftest import ApiUnderTest

pytestmark = pytest.mark.anyio

LONG_S = 60.0
PATIENCE_S = 5.0


class Client:
    """One that waits for its answer until it `leaves`."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    @property
    def request(self) -> Request:
        return Request({"type": "http", "headers": []}, self.receive)


class Events:
    """The `JobEvents` that a test speaks through, and that tells when somebody listens. A fake: what is said, and when, decides
    these tests, and a server would say it in its own time."""

    def __init__(self) -> None:
        self.watchers = Watchers()
        self.held = asyncio.Semaphore(0)

    @asynccontextmanager
    async def subscribe(self, job_id: str, listener: ChangeListener) -> AsyncIterator[None]:
        self.watchers.add(job_id, listener)
        self.held.release()
        try:
            yield
        finally:
            self.watchers.remove(job_id, listener)

    def canceled(self, worker_id: str) -> AsyncGenerator[str]:
        raise AssertionError("only a worker asks for this")


@pytest.fixture
async def job(api: ApiUnderTest) -> Job:
    return await api.stores.jobs.get("public", (await api.submit())["id"])


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def waiters(api: ApiUnderTest, events: Events) -> Waiters:
    return Waiters(api.stores.jobs, events, Shares("waits", 100, 100))


async def held(waiters: Waiters, events: Events, job: Job, client: Client | None = None) -> asyncio.Task[Any]:
    """A client that is held, and hears."""
    request = (client or Client()).request
    waiting = asyncio.create_task(waiters.until_terminal(request, job.tenant, job.id, LONG_S, "h"))
    async with asyncio.timeout(PATIENCE_S):
        await events.held.acquire()
    return waiting


async def let_go(waiting: asyncio.Task[Any]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await waiting


async def test_the_end_of_the_job_and_no_other_change(
    api: ApiUnderTest, waiters: Waiters, events: Events, job: Job
) -> None:
    waiting = await held(waiters, events, job)
    events.watchers.notify(job.id, JobStatus.RUNNING)
    ended = await api.work()
    assert not waiting.done()
    events.watchers.notify(job.id, ended.status)
    assert await let_go(waiting) == ended


async def test_an_end_that_is_told_while_the_record_is_read_is_not_missed(
    api: ApiUnderTest, waiters: Waiters, events: Events, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = api.stores.jobs.get

    async def slow(tenant: str, job_id: str) -> Job:
        found = await get(tenant, job_id)
        if not found.status.terminal:
            monkeypatch.setattr(api.stores.jobs, "get", get)
            events.watchers.notify(job_id, (await api.work()).status)
        return found

    monkeypatch.setattr(api.stores.jobs, "get", slow)
    waiting = await held(waiters, events, job)
    assert (await let_go(waiting)).status is JobStatus.SUCCEEDED


async def test_who_hears_no_more_goes_with_the_job_as_it_stands(
    waiters: Waiters, events: Events, job: Job
) -> None:
    waiting = await held(waiters, events, job)
    events.watchers.end()
    assert await let_go(waiting) == job


async def test_a_process_that_closes_lets_everyone_go(waiters: Waiters, events: Events, job: Job) -> None:
    waiting = [await held(waiters, events, job) for _ in range(3)]
    waiters.close()
    assert [await let_go(each) for each in waiting] == [job] * 3
    assert await waiters.until_terminal(Client().request, job.tenant, job.id, LONG_S, "h") is None


async def test_a_client_that_leaves_makes_room(api: ApiUnderTest, events: Events, job: Job) -> None:
    waiters = Waiters(api.stores.jobs, events, Shares("waits", 1, 1))
    client = Client()
    waiting = await held(waiters, events, job, client)
    assert await waiters.until_terminal(Client().request, job.tenant, job.id, LONG_S, "h") is None
    client.leaves.set()
    with pytest.raises(ClientDisconnect):
        await let_go(waiting)
    again = await held(waiters, events, job)
    waiters.close()
    assert await let_go(again) == job


async def test_a_held_request_costs_one_task_beside_its_own(
    waiters: Waiters, events: Events, job: Job
) -> None:
    async with asyncio.timeout(PATIENCE_S):
        # The fixture's job still leaves the outbox, in a task that ends in a moment.
        while any("OutboxCleaner" in str(task.get_coro()) for task in asyncio.all_tasks()):
            await asyncio.sleep(0.01)
    before = len(asyncio.all_tasks())
    waiting = [await held(waiters, events, job) for _ in range(50)]
    async with asyncio.timeout(PATIENCE_S):
        # Their first reads, which they share, end.
        while len(asyncio.all_tasks()) - before > 2 * len(waiting):
            await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) - before == 2 * len(waiting)
    waiters.close()
    await asyncio.gather(*waiting)
    assert len(asyncio.all_tasks()) == before
