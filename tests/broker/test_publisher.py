"""Publishing to the real brokers: confirmed, bounded, and clear about what went wrong."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from socket import socket
from typing import Any

import pytest
from kombu import Connection
from kombu.message import Message

from broker.publisher import LANES, MAX_GROUP, KombuPublisher, open_publisher
from broker.publishing_link import Group, Link, Verdict
from broker.topology import DEAD_LETTER_QUEUE, TASK_NAME, queue_name
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from contracts.errors import BrokerUnavailable, QueueFull
from contracts.jobs import Job, JobMessage
from contracts.settings import BackendSettings
from tests.store.made import new

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


async def ids_on(url: str, model: str) -> set[str]:
    """The jobs whose messages lie on the model's queue; takes them off."""
    found: set[str] = set()
    with Connection(url) as connection:
        channel = connection.channel()
        while (got := channel.basic_get(queue_name(model), no_ack=True)) is not None:
            found.add(got.properties["application_headers"]["id"])
    return found


async def test_those_that_meet_share_one_wait_and_one_alone_waits_for_nobody(
    anyio_backend: str, rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    real = Link.publish

    def publish(link: Link, group: Group, verdicts: dict[int, Verdict]) -> None:
        groups.append(len(group))
        real(link, group, verdicts)

    monkeypatch.setattr(Link, "publish", publish)
    async with publishing(rabbit_server.url) as publisher:
        await publisher.publish(message("together"))
        sent = [message("together") for _ in range(64)]
        await asyncio.gather(*(publisher.publish(each) for each in sent))
    assert groups == [1, 64]
    assert {each.job_id for each in sent} < await ids_on(rabbit_server.url, "together")


async def test_each_of_a_group_has_the_verdict_that_is_its_own(
    anyio_backend: str, rabbit_server: RabbitServer
) -> None:
    """One group for four queues: one with room, one full, one that was deleted behind our back, one of other settings."""
    url = rabbit_server.url
    with Connection(url) as connection:
        connection.channel().queue_declare(queue_name("strange"), durable=True, auto_delete=False)
    async with publishing(url, queue_max_length=3) as publisher:
        filling = [publisher.publish(message("brimful")) for _ in range(10)]
        filled = await asyncio.gather(*filling, return_exceptions=True)
        await publisher.publish(message("vanished"))
        with Connection(url) as connection:
            connection.channel().queue_delete(queue_name("vanished"))
        sent = {
            model: [message(model) for _ in range(2)] for model in ("roomy", "brimful", "vanished", "strange")
        }
        # Interleaved, so that each stands between others.
        order = [each for pair in zip(*sent.values(), strict=True) for each in pair]
        outcomes = dict(
            zip(
                [each.job_id for each in order],
                await asyncio.gather(*(publisher.publish(each) for each in order), return_exceptions=True),
                strict=True,
            )
        )
    told = {model: [outcomes[each.job_id] for each in sent[model]] for model in sent}
    assert told["roomy"] == [None, None]
    assert told["vanished"] == [None, None]
    assert [type(each) for each in told["brimful"]] == [QueueFull, QueueFull]
    assert [type(each) for each in told["strange"]] == [BrokerUnavailable, BrokerUnavailable]
    for model in ("roomy", "vanished"):
        assert await ids_on(url, model) == {each.job_id for each in sent[model]}
    assert len(await ids_on(url, "brimful")) == sum(each is None for each in filled)


async def test_what_a_queue_refuses_of_a_group_is_not_on_it(
    anyio_backend: str, rabbit_server: RabbitServer
) -> None:
    # RabbitMQ tells the channel that the queue is full when it is: what has come by then in one group is let in.
    sent = [message("burst") for _ in range(20 + 3 * MAX_GROUP * LANES)]
    async with publishing(rabbit_server.url, queue_max_length=20) as publisher:
        outcomes = await asyncio.gather(*(publisher.publish(each) for each in sent), return_exceptions=True)
    confirmed = {each.job_id for each, outcome in zip(sent, outcomes, strict=True) if outcome is None}
    assert 20 <= len(confirmed) < len(sent)
    assert {type(outcome) for outcome in outcomes if outcome is not None} == {QueueFull}
    assert await ids_on(rabbit_server.url, "burst") == confirmed


async def test_a_connection_that_dies_under_a_group_is_replaced(
    anyio_backend: str, rabbit_server: RabbitServer
) -> None:
    sent = [message("cut") for _ in range(64)]
    async with publishing(rabbit_server.url) as publisher:
        await publisher.publish(sent[0])
        rabbit_server.control("close_all_connections", "test")
        await asyncio.gather(*(publisher.publish(each) for each in sent[1:]))
    assert await ids_on(rabbit_server.url, "cut") == {each.job_id for each in sent}


async def test_one_message_that_the_broker_will_not_have_costs_no_other(
    anyio_backend: str, rabbit_server: RabbitServer
) -> None:
    """RabbitMQ closes the channel for one that is too large, and does not say for which."""
    rabbit_server.control("eval", "application:set_env(rabbit, max_message_size, 20000).")
    try:
        async with publishing(rabbit_server.url) as publisher:
            good = [message("large") for _ in range(6)]
            large = message("large")
            large = large.model_copy(
                update={"request": large.request.model_copy(update={"prompt": "x" * 30_000})}
            )
            group = [*good[:3], large, *good[3:]]
            outcomes = await asyncio.gather(
                *(publisher.publish(each) for each in group), return_exceptions=True
            )
    finally:
        rabbit_server.control("eval", "application:unset_env(rabbit, max_message_size).")
    assert [type(outcome) for outcome in outcomes] == [
        *[type(None)] * 3,
        BrokerUnavailable,
        *[type(None)] * 3,
    ]
    assert await ids_on(rabbit_server.url, "large") == {each.job_id for each in good}


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


class Raced(list[Link]):
    """Idle connections of which another thread takes the last between a look and the taking."""

    def __bool__(self) -> bool:
        looked = len(self) > 0
        while len(self):
            self.pop().close()
        return looked


async def test_threads_that_race_for_an_idle_connection_both_publish(anyio_backend: str, url: str) -> None:
    sent = [message("raced") for _ in range(2)]
    async with publishing(url) as publisher:
        for each in sent:
            await publisher.publish(each)
            publisher._idle = Raced(publisher._idle)
        await publisher.check()
    assert {each.headers["id"] for each in taken(url, "raced", 2)} == {each.job_id for each in sent}


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[socket]:
    """The sockets of all connections to RabbitMQ that are opened to publish."""
    found: list[socket] = []
    real = Connection.connect

    def connect(connection: Connection) -> Any:
        opened = real(connection)
        found.append(opened.sock)
        return opened

    monkeypatch.setattr(Connection, "connect", connect)
    return found


def test_a_connection_that_hangs_once_it_is_there_is_closed(
    own_broker: RabbitServer, sockets: list[socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Connection.channel

    def channel(connection: Connection) -> Any:
        own_broker.send(signal.SIGSTOP)
        return real(connection)

    monkeypatch.setattr(Connection, "channel", channel)
    settings = BackendSettings.model_validate({"broker_url": own_broker.url, "publish_timeout_s": 0.5})
    with pytest.raises(TimeoutError):
        Link(settings)
    assert [each.fileno() for each in sockets] == [-1]


@pytest.mark.parametrize("how", ["fresh", "idle", "checked"])
async def test_a_fault_of_our_own_leaves_no_connection_open(
    anyio_backend: str,
    rabbit_server: RabbitServer,
    sockets: list[socket],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    async with publishing(rabbit_server.url) as publisher:
        if how != "fresh":
            await publisher.publish(message("ours"))
        monkeypatch.setattr(Link, "check" if how == "checked" else "publish", broken)
        with pytest.raises(ZeroDivisionError):
            await (publisher.check() if how == "checked" else publisher.publish(message("ours")))
        assert [each.fileno() for each in sockets] == [-1]


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


async def test_those_that_come_while_a_group_is_on_its_way_make_the_next(
    anyio_backend: str, rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.publisher.PATIENCE_S", 60.0, raising=False)
    groups: list[int] = []
    let_go = threading.Event()
    real = Link.publish

    def publish(link: Link, group: Group, verdicts: dict[int, Verdict]) -> None:
        groups.append(len(group))
        let_go.wait(30)
        real(link, group, verdicts)

    monkeypatch.setattr(Link, "publish", publish)
    sent = [message("behind") for _ in range(6)]
    async with asyncio.timeout(60), publishing(rabbit_server.url) as publisher:
        tasks = [asyncio.create_task(publisher.publish(sent[0]))]
        while not groups:
            await asyncio.sleep(0.001)
        for each in sent[1:]:
            tasks.append(asyncio.create_task(publisher.publish(each)))
            await asyncio.sleep(0.01)
        let_go.set()
        await asyncio.gather(*tasks)
    assert groups == [1, 5]
    assert await ids_on(rabbit_server.url, "behind") == {each.job_id for each in sent}


async def test_a_group_that_hangs_holds_up_no_other(
    anyio_backend: str, rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, let_go = threading.Event(), threading.Event()
    real = Link.publish

    def publish(link: Link, group: Group, verdicts: dict[int, Verdict]) -> None:
        if not hung.is_set():
            hung.set()
            let_go.wait(30)
        real(link, group, verdicts)

    monkeypatch.setattr(Link, "publish", publish)
    async with asyncio.timeout(60), publishing(rabbit_server.url, publish_timeout_s=30.0) as publisher:
        first = asyncio.create_task(publisher.publish(message("hangs")))
        while not hung.is_set():
            await asyncio.sleep(0.001)
        await publisher.publish(message("hangs"))
        assert not first.done()
        let_go.set()
        await first
