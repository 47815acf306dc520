"""Dead letters on a real RabbitMQ: looked at as often as it takes, none lost, none in the way of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from kombu import Connection

from backends.redis_client import connect
from broker.dead_letter_queue import HELD, RENEW_AFTER_RETURNS, RENEW_AFTER_S, KombuDeadLetters, must_renew
from broker.fail_dead_letters import LIMIT, fail_dead_letters
from broker.topology import DEAD_LETTER_QUEUE, dead_letter_queue, refused_queue, task_message
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from contracts.errors import BrokerUnavailable, StoreUnavailable
from contracts.jobs import JobMessage, JobStatus
from contracts.ports.job_store import JobStore
from contracts.settings import BackendSettings
from contracts.transitions import Claim
from runtime.clock import ManualClock
from store.jobs import RedisJobStore
from store.stores import Stores, open_stores
from tests.publishers import RecordingPublisher
from tests.store.made import keys, new, status

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LOOKS = 30
"""RabbitMQ 4 drops a message that was given back 20 times."""


@pytest.fixture
def settings(rabbit_server: RabbitServer, redis_server: RedisServer, tmp_path: Path) -> BackendSettings:
    return BackendSettings(
        broker_url=rabbit_server.url,
        redis_url=redis_server.url.replace("/0", "/7"),
        blob_dir=tmp_path / "blobs",
        publish_timeout_s=3.0,
        redis_timeout_s=20.0,
        lease_s=200.0,  # however busy this machine is, a worker keeps its job until a test says otherwise
    )


@pytest.fixture
async def stores(anyio_backend: str, settings: BackendSettings) -> AsyncIterator[Stores]:
    client = connect(settings.redis_url, 20.0)
    await client.flushdb()
    await client.aclose()
    opened = open_stores(settings)
    yield opened
    await opened.close()


@pytest.fixture
def channel(rabbit_server: RabbitServer) -> Iterator[Any]:
    """A channel to the broker, where both queues are there and empty."""
    with Connection(rabbit_server.url) as connection:
        opened = connection.channel()
        for queue in (dead_letter_queue(), refused_queue()):
            queue(opened).declare()
            opened.queue_purge(queue.name)
        yield opened


@asynccontextmanager
async def letters(
    settings: BackendSettings, clock: ManualClock | None = None
) -> AsyncIterator[KombuDeadLetters]:
    opened = KombuDeadLetters(settings, clock or ManualClock())
    try:
        yield opened
    finally:
        await opened.close()


def send(channel: Any, body: bytes, encoding: str = "utf-8", **properties: Any) -> None:
    given = {"delivery_mode": 2, **properties}
    message = channel.prepare_message(body, content_encoding=encoding, properties=given)
    channel.basic_publish(message, exchange="", routing_key=DEAD_LETTER_QUEUE)


def waiting(channel: Any, queue: str = DEAD_LETTER_QUEUE) -> int:
    """Messages on the queue that nobody has in hand."""
    count: int = channel.queue_declare(queue, passive=True).message_count
    return count


async def eventually(count: Callable[[], int], wanted: int, timeout_s: float = 15.0) -> None:
    """A quorum queue counts a moment after it has answered."""
    async with asyncio.timeout(timeout_s):
        while count() != wanted:
            await asyncio.sleep(0.05)


async def running(jobs: JobStore, key: str) -> JobMessage:
    """A job that a worker has in hand."""
    message = (await jobs.submit(new(key, ttl_s=600.0))).job.message()
    await jobs.claim(message, "worker")
    return message


async def test_a_letter_is_looked_at_as_often_as_it_takes(
    stores: Stores, settings: BackendSettings, channel: Any
) -> None:
    message = await running(stores.jobs, keys(1)[0])
    send(channel, task_message(message)[0])
    async with letters(settings) as box:
        for _ in range(LOOKS):
            (letter,) = await box.take(LIMIT)
            assert letter.message == message
            await box.settle([(letter, False)])
        await fail_dead_letters(stores.jobs, RecordingPublisher(), box)
        assert await status(stores.jobs, message.job_id) is JobStatus.RUNNING
    await eventually(lambda: waiting(channel), 1)


async def test_a_letter_outlives_any_number_of_keepers(
    stores: Stores, settings: BackendSettings, channel: Any
) -> None:
    """Each that dies or hands over gives it back, which the broker counts."""
    message = await running(stores.jobs, keys(1)[0])
    send(channel, task_message(message)[0])
    for looks in range(LOOKS):
        async with letters(settings) as box:
            for _ in range(50):
                if taken := await box.take(LIMIT):
                    break
            assert [letter.message for letter in taken] == [message], f"after {looks} keepers"
            await box.settle([(letter, False) for letter in taken])
    await eventually(lambda: waiting(channel), 1)


async def test_busy_letters_do_not_stop_the_others(
    stores: Stores, settings: BackendSettings, channel: Any
) -> None:
    """More than a round of them, all in front."""
    for key in keys(LIMIT + 10):
        send(channel, task_message(await running(stores.jobs, key))[0])
    dead = (await stores.jobs.submit(new(keys(1)[0], ttl_s=600.0))).job.message()
    send(channel, task_message(dead)[0])
    async with letters(settings) as box:
        for _ in range(3):
            await fail_dead_letters(stores.jobs, RecordingPublisher(), box)
    assert await status(stores.jobs, dead.job_id) is JobStatus.FAILED
    await eventually(lambda: waiting(channel), LIMIT + 10)


async def test_a_job_that_cannot_be_read_does_not_stop_the_others(
    stores: Stores, settings: BackendSettings, channel: Any
) -> None:
    bad, good = [(await stores.jobs.submit(new(key, ttl_s=600.0))).job.message() for key in keys(2)]
    client = connect(settings.redis_url, 20.0)
    (record,) = [key async for key in client.scan_iter(f"*:job:{bad.job_id}")]
    await client.delete(record)
    await client.set(record, "no record at all")
    await client.aclose()
    for message in (bad, good):
        send(channel, task_message(message)[0])
    async with letters(settings) as box:
        for _ in range(LOOKS):
            with pytest.raises(StoreUnavailable):
                await fail_dead_letters(stores.jobs, RecordingPublisher(), box)
        assert await status(stores.jobs, good.job_id) is JobStatus.FAILED
    await eventually(lambda: waiting(channel), 1)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"cos\nsystem", "binary"),
        (b"", "utf-8"),
        (rb'"\ud800"', "raw_unicode_escape"),
        (b"\xff\x00", "utf-8"),
        (b"[" * 5000, "utf-8"),
    ],
    ids=["pickle", "empty", "surrogate", "bytes", "deep"],
)
async def test_what_is_no_job_is_kept_byte_for_byte_and_stops_nothing(
    stores: Stores, settings: BackendSettings, channel: Any, body: bytes, encoding: str
) -> None:
    message = (await stores.jobs.submit(new(keys(1)[0], ttl_s=600.0))).job.message()
    send(channel, body, encoding)
    send(channel, task_message(message)[0])
    await eventually(lambda: waiting(channel), 2)
    async with letters(settings) as box:
        await fail_dead_letters(stores.jobs, RecordingPublisher(), box)
        assert await status(stores.jobs, message.job_id) is JobStatus.FAILED
    await eventually(lambda: waiting(channel, refused_queue().name), 1)
    assert waiting(channel) == 0
    channel.auto_decode = False
    assert (channel.basic_get(refused_queue().name, no_ack=True).body or b"") == body


async def test_a_letter_that_is_held_for_long_is_replaced_by_a_copy_of_its_own(
    stores: Stores, settings: BackendSettings, channel: Any
) -> None:
    """Also where its properties would have the copy expire."""
    message, clock = await running(stores.jobs, keys(1)[0]), ManualClock()
    body = task_message(message)[0]
    send(channel, body, expiration="60000", user_id="guest")
    async with letters(settings, clock) as box:
        (letter,) = await box.take(LIMIT)
        await box.settle([(letter, False)])
        clock.advance(RENEW_AFTER_S)
        (letter,) = await box.take(LIMIT)
        assert waiting(channel) == 0
        await box.settle([(letter, False)])
        await eventually(lambda: waiting(channel), 1)
        (copy,) = await box.take(LIMIT)
        assert (copy.message, copy.body) == (message, body)
    await eventually(lambda: waiting(channel), 1)
    properties = channel.basic_get(DEAD_LETTER_QUEUE, no_ack=True).properties
    assert "expiration" not in properties
    assert properties["delivery_mode"] == 2


async def test_a_broker_that_takes_no_publish_loses_no_letter(
    stores: Stores, settings: BackendSettings, channel: Any, rabbit_server: RabbitServer
) -> None:
    """While it is short of disk it reads nothing from those who publish. Jobs end all the same."""
    send(channel, b"no job at all")
    dead = (await stores.jobs.submit(new(keys(1)[0], ttl_s=600.0))).job.message()
    send(channel, task_message(dead)[0])
    quick = settings.model_copy(update={"publish_timeout_s": 0.3})
    await eventually(lambda: waiting(channel), 2)
    async with letters(quick) as box:
        rabbit_server.control("set_vm_memory_high_watermark", "0")
        try:
            for _ in range(LOOKS):
                with pytest.raises(BrokerUnavailable):
                    await fail_dead_letters(stores.jobs, RecordingPublisher(), box)
        finally:
            rabbit_server.control("set_vm_memory_high_watermark", "0.4")
        assert await status(stores.jobs, dead.job_id) is JobStatus.FAILED
    async with letters(settings) as box:
        await fail_dead_letters(stores.jobs, RecordingPublisher(), box)
    await eventually(lambda: waiting(channel, refused_queue().name), 1)
    assert waiting(channel) == 0


async def test_a_broker_that_takes_back_what_is_held_loses_no_letter(
    stores: Stores, settings: BackendSettings, channel: Any, rabbit_server: RabbitServer
) -> None:
    """By `consumer_timeout`, which an operator may set: it closes the channel, or from 4.3 on only takes the letter back."""
    message = await running(stores.jobs, keys(1)[0])
    send(channel, task_message(message)[0])
    with timeouts(rabbit_server, consumer_ms=1_000, tick_ms=200):
        async with letters(settings) as box:
            await fail_dead_letters(stores.jobs, RecordingPublisher(), box)
            with suppress(
                TimeoutError
            ):  # 3.10 lets a consumer's time run out alone, and nobody consumes here
                await eventually(lambda: waiting(channel), 1, 5.0)
            cast(RedisJobStore, stores.jobs).skew_s += 300.0  # the worker is gone, and its lease lapses
            async with asyncio.timeout(30):
                while await status(stores.jobs, message.job_id) is JobStatus.RUNNING:
                    with suppress(BrokerUnavailable):
                        await fail_dead_letters(stores.jobs, RecordingPublisher(), box)
            for _ in range(3):
                with suppress(BrokerUnavailable):
                    await fail_dead_letters(stores.jobs, RecordingPublisher(), box)
        assert await status(stores.jobs, message.job_id) is JobStatus.FAILED
    await eventually(lambda: waiting(channel), 0)


@contextmanager
def timeouts(server: RabbitServer, consumer_ms: int, tick_ms: int) -> Iterator[None]:
    """For channels and queues that are opened meanwhile."""

    def set_to(consumer: int, tick: int) -> None:
        for name, value in (("consumer_timeout", consumer), ("channel_tick_interval", tick)):
            server.control("eval", f"application:set_env(rabbit, {name}, {value}).")

    set_to(consumer_ms, tick_ms)
    try:
        yield
    finally:
        set_to(1_800_000, 60_000)


async def test_who_no_longer_keeps_house_gives_the_letters_back(
    stores: Stores, settings: BackendSettings, channel: Any
) -> None:
    message = await running(stores.jobs, keys(1)[0])
    send(channel, task_message(message)[0])
    async with letters(settings) as first, letters(settings) as second:
        await fail_dead_letters(stores.jobs, RecordingPublisher(), first)
        assert await second.take(LIMIT) == []
        await first.release()
        await eventually(lambda: waiting(channel), 1)
        assert [letter.message for letter in await second.take(LIMIT)] == [message]


async def test_a_store_that_is_away_leaves_the_letters_where_they_are(
    stores: Stores, settings: BackendSettings, channel: Any
) -> None:
    class Away:
        async def claim(self, message: JobMessage, worker: str) -> Claim:
            raise StoreUnavailable("away")

    message = await running(stores.jobs, keys(1)[0])
    send(channel, task_message(message)[0])
    async with letters(settings) as box:
        for _ in range(LOOKS):
            with pytest.raises(StoreUnavailable):
                await fail_dead_letters(Away(), RecordingPublisher(), box)  # type: ignore[arg-type]
    await eventually(lambda: waiting(channel), 1)


def test_a_letter_is_renewed_before_the_broker_would_drop_it_or_take_it_back() -> None:
    assert not must_renew(RENEW_AFTER_RETURNS - 1, RENEW_AFTER_S - 1)
    assert must_renew(RENEW_AFTER_RETURNS, 0.0)
    assert must_renew(0, RENEW_AFTER_S)
    assert RENEW_AFTER_RETURNS < 20 < LOOKS, "the limit of a quorum queue of RabbitMQ 4"
    assert RENEW_AFTER_S < 1800
    assert LIMIT < HELD
