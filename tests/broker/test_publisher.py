"""Publishing to the real brokers: confirmed, bounded, and clear about what went wrong."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from kombu.message import Message

from broker.publisher import KombuPublisher, open_publisher
from broker.topology import DEAD_LETTER_QUEUE, TASK_NAME, queue_name
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from contracts.errors import BrokerUnavailable, QueueFull
from contracts.jobs import Job, JobMessage
from contracts.settings import BackendSettings
from tests.cache.made import new

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def message(model: str) -> JobMessage:
    job = new(model=model)
    return JobMessage(
        job_id=job.id, tenant=job.tenant, key=job.key, request=job.request, created_at=1.0, deadline=2.0
    )


@asynccontextmanager
async def publishing(url: str, **rest: object) -> AsyncIterator[KombuPublisher]:
    publisher = open_publisher(BackendSettings.model_validate({"broker_url": url, **rest}))
    try:
        yield publisher
    finally:
        await publisher.close()


@pytest.fixture(params=["rabbitmq", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        return server.url.replace("/0", "/1")
    broker: RabbitServer = request.getfixturevalue("rabbit_server")
    return broker.url


async def test_a_published_job_is_on_its_queue_as_a_celery_task(anyio_backend: str, url: str) -> None:
    sent = message("shape")
    async with publishing(url) as publisher:
        await publisher.check()
        await publisher.publish(sent)
    (got,) = taken(url, "shape", 1)
    assert got.headers["task"] == TASK_NAME
    assert got.headers["id"] == sent.job_id
    assert sent.request.prompt not in json.dumps(got.headers), "logs must hold no prompt"
    assert got.content_type == "application/json"
    (args, kwargs, _) = got.payload
    assert JobMessage.model_validate(args[0]) == sent
    assert kwargs == {}


def taken(url: str, model: str, count: int) -> list[Any]:
    """`count` messages of the model's queue, which must be there."""
    with Connection(url) as connection:
        channel = connection.channel()
        found = [channel.basic_get(queue_name(model), no_ack=True) for _ in range(count)]
        assert None not in found
        return [each if isinstance(each, Message) else channel.message_to_python(each) for each in found]


async def test_two_hundred_at_once_all_arrive(anyio_backend: str, url: str) -> None:
    sent = [message("many") for _ in range(200)]
    async with publishing(url) as publisher:
        await asyncio.gather(*(publisher.publish(each) for each in sent))
    got = {delivered.headers["id"] for delivered in taken(url, "many", 200)}
    assert got == {each.job_id for each in sent}


async def test_a_full_queue_refuses(anyio_backend: str, url: str) -> None:
    async with publishing(url, queue_max_length=3) as publisher:
        # RabbitMQ may let one or two more in than it was told.
        messages = [publisher.publish(message("full")) for _ in range(10)]
        outcomes = await asyncio.gather(*messages, return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) >= 3
        with pytest.raises(QueueFull) as caught:
            await publisher.publish(message("full"))
    assert caught.value.retry_after_s == 5.0


async def test_a_queue_of_other_settings_is_named(anyio_backend: str, rabbit_server: RabbitServer) -> None:
    async with publishing(rabbit_server.url, queue_max_length=7) as publisher:
        await publisher.publish(message("settings"))
    async with publishing(rabbit_server.url, queue_max_length=8) as publisher:
        with pytest.raises(BrokerUnavailable, match="x-max-length"):
            await publisher.publish(message("settings"))


def test_messages_and_queues_survive(rabbit_server: RabbitServer) -> None:
    listed = rabbit_server.control("list_queues", "-q", "name", "type", "durable", "arguments")
    lines = {line.split()[0]: line for line in listed.splitlines() if "darkroom" in line}
    assert "quorum" in lines[queue_name("many")]
    assert "reject-publish" in lines[queue_name("many")]
    assert "at-least-once" in lines[queue_name("many")]
    assert DEAD_LETTER_QUEUE in lines


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[RabbitServer]:
    server = RabbitServer(tmp_path / "rabbitmq")
    server.start()
    yield server
    server.send(signal.SIGCONT)
    server.stop()


async def test_a_broker_that_hangs_dies_and_comes_back(anyio_backend: str, own_broker: RabbitServer) -> None:
    async with publishing(own_broker.url, publish_timeout_s=3.0) as publisher:
        await publisher.publish(message("back"))
        own_broker.send(signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await publisher.publish(message("back"))
        assert time.monotonic() - begun < 12.0
        own_broker.send(signal.SIGCONT)
        await asyncio.sleep(2.0)
        await publisher.publish(message("back"))
        own_broker.send(signal.SIGKILL)
        with pytest.raises(BrokerUnavailable):
            await publisher.publish(message("back"))
        with pytest.raises(BrokerUnavailable):
            await publisher.check()
        own_broker.start()
        # Every thread's connection is dead by now: none of that may be seen.
        for _ in range(16):
            await publisher.publish(message("back"))
    assert len(taken(own_broker.url, "back", 18)) == 18


async def test_a_redis_broker_that_is_away_says_so(anyio_backend: str, tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    server.start()
    async with publishing(server.url, publish_timeout_s=1.5) as publisher:
        await publisher.publish(message("away"))
        server.stop()
        with pytest.raises(BrokerUnavailable):
            await publisher.publish(message("away"))
        server.start()
        await publisher.publish(message("away"))
    server.stop()


def test_the_memory_job_is_the_record(anyio_backend: str) -> None:
    assert set(JobMessage.model_fields) - {"min_schema", "job_id"} <= set(Job.model_fields)
