"""What one picture costs the state Redis: commands, scripts and trips, counted by the server itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from backends.redis_client import connect, disconnect
from cli.services.redis import RedisServer
from contracts.jobs import JobMessage, NewJob
from contracts.pictures import PictureRecord
from contracts.settings import BackendSettings
from contracts.transitions import Busy, End, Finished, Found, Submission, Submitted
from store.stores import Stores, open_stores
from tests.store.made import keys, new, record, result, taken

MOST_COMMANDS: Final = 43
MOST_OF_EMBEDDINGS: Final = 5
"""More than that, for a picture with an embedding."""
MOST_SCRIPTS: Final = 3
MOST_OF_A_MESSAGE: Final = 5
MOST_OF_A_HIT: Final = 11
MOST_OF_A_JOIN: Final = 15
ASIDE: Final = {
    "info",
    "config|resetstat",
    "client|setinfo",
    "hello",
    "select",
    "ping",
    "script|load",
    "eval",
}
"""What a connection or the counting itself asks, once."""


@pytest.fixture
async def stores(anyio_backend: str, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Stores]:
    opened = open_stores(BackendSettings(redis_url=redis_server.url, blob_dir=tmp_path))
    yield opened
    await opened.close()


@pytest.fixture
async def client(anyio_backend: str, redis_server: RedisServer) -> AsyncIterator[Redis]:
    opened = connect(redis_server.url, 2.0)
    await opened.flushall()
    yield opened
    await disconnect(opened)


class Counted:
    """What the server has carried out since `begin`."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def begin(self) -> None:
        await self._client.config_resetstat()

    async def commands(self) -> dict[str, int]:
        told: dict[str, Any] = await self._client.info("commandstats")
        found = {name.removeprefix("cmdstat_"): int(each["calls"]) for name, each in told.items()}
        return {name: calls for name, calls in found.items() if name not in ASIDE}


def address(job: NewJob) -> str:
    return f"scope.model.revision.{job.key}"


async def submitted(stores: Stores, job: NewJob) -> JobMessage:
    (answer,) = await stores.jobs.submit_many([Submission(job, address(job), most_ahead=1000)])
    assert isinstance(answer, Submitted)
    assert answer.lead
    return answer.job.message()


async def drawn(stores: Stores, job: NewJob, pictures: tuple[PictureRecord, ...] = ()) -> None:
    """One picture, from its submit to its end: four trips."""
    await submitted(stores, job)
    await stores.jobs.confirm_many([job.id])
    (mine,) = await taken(stores.jobs, 8)
    (answer,) = await stores.jobs.end_many([End(mine.lease, result(), address(job), pictures)])
    assert answer == Finished(applied=True)


async def test_a_cold_picture(stores: Stores, client: Redis) -> None:
    warm, job = (new(key) for key in keys(2))
    await drawn(stores, warm)
    counted = Counted(client)
    await counted.begin()
    await drawn(stores, job)
    commands = await counted.commands()
    print(sum(commands.values()), commands)
    assert commands["evalsha"] <= MOST_SCRIPTS
    assert sum(commands.values()) <= MOST_COMMANDS, commands


async def test_a_cold_picture_with_an_embedding(stores: Stores, client: Redis) -> None:
    warm, job = (new(key) for key in keys(2))
    await drawn(stores, warm)
    counted = Counted(client)
    await counted.begin()
    await drawn(stores, job, (record(job, 1), record(job, 2)))
    commands = await counted.commands()
    assert commands["evalsha"] <= MOST_SCRIPTS
    assert sum(commands.values()) <= MOST_COMMANDS + MOST_OF_EMBEDDINGS, commands


async def test_a_message_that_comes_while_its_job_waits(stores: Stores, client: Redis) -> None:
    job = new()
    message = await submitted(stores, job)
    assert isinstance(
        await stores.jobs.claim(message, "w1", leave_waiting=True), Busy
    )  # the script travels once
    counted = Counted(client)
    await counted.begin()
    assert isinstance(await stores.jobs.claim(message, "w1", leave_waiting=True), Busy)
    commands = await counted.commands()
    assert sum(commands.values()) <= MOST_OF_A_MESSAGE, commands


async def test_a_hit(stores: Stores, client: Redis) -> None:
    warm, job = (new(key) for key in keys(2))
    await stores.jobs.submit(warm, result())
    counted = Counted(client)
    await counted.begin()
    await stores.jobs.submit(job, result())
    commands = await counted.commands()
    print(sum(commands.values()), commands)
    assert commands["evalsha"] == 1
    assert sum(commands.values()) <= MOST_OF_A_HIT, commands


async def test_a_join(stores: Stores, client: Redis) -> None:
    leader = new()
    await submitted(stores, leader)
    counted = Counted(client)
    await counted.begin()
    (answer,) = await stores.jobs.submit_many([Submission(new(), address(leader), most_ahead=0)])
    assert isinstance(answer, Submitted)
    assert not answer.lead
    commands = await counted.commands()
    print(sum(commands.values()), commands)
    assert commands["evalsha"] == 1
    assert sum(commands.values()) <= MOST_OF_A_JOIN, commands


async def test_a_result_of_the_cache_is_found_by_the_submit(stores: Stores, client: Redis) -> None:
    job = new()
    await drawn(stores, job)
    counted = Counted(client)
    await counted.begin()
    (answer,) = await stores.jobs.submit_many([Submission(new(), address(job), most_ahead=0)])
    assert answer == Found(result())
    assert sum((await counted.commands()).values()) == 4, (
        "the call, its time, whether the job is known, the result"
    )
