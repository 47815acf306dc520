"""Confirmed publishing off the event loop: a few threads, each with a connection of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from amqp.exceptions import MessageNacked, PreconditionFailed
from kombu import Connection

from broker.topology import declare, is_redis, publisher_connection, queue_name, task_message
from contracts.errors import BrokerUnavailable, QueueFull, UnavailableError
from contracts.jobs import JobMessage
from contracts.settings import BackendSettings
from telemetry import metrics, tracing
from telemetry.logs import get_logger

T = TypeVar("T")

THREADS: Final = 8
"""A confirm waits for the broker's disk: with eight in flight, some 2,000 publishes a second."""
NACK_DELAYS_S: Final = (0.05, 0.1, 0.2, 0.4)

log = get_logger(__name__)


class _Link:
    """One thread's connection and channel, with the queues that it knows to be declared."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self.connection: Connection = publisher_connection(settings)
        self.connection.connect()
        self._channel: Any = self.connection.channel()
        self._declared: set[str] = set()

    def publish(self, message: JobMessage) -> None:
        model = message.request.model
        if model not in self._declared:
            declare(self._channel, model, self._settings)
            self._declared.add(model)
        if is_redis(self._settings.broker_url):
            limit = self._settings.queue_max_length
            if self._channel.client.llen(queue_name(model)) >= limit:
                raise QueueFull(f"{limit} jobs are waiting already.", retry_after_s=5.0)
        body, headers, properties = task_message(message)
        prepared = self._channel.prepare_message(
            body,
            content_type="application/json",
            content_encoding="utf-8",
            headers=headers,
            properties={**properties, "delivery_mode": 2},
        )
        options: dict[str, Any] = {}
        if not is_redis(self._settings.broker_url):
            options = {"mandatory": True, "confirm_timeout": self._settings.publish_timeout_s}
        self._channel.basic_publish(prepared, exchange="", routing_key=queue_name(model), **options)

    def waiting(self, model: str) -> int:
        """Messages that are ready on the model's queue."""
        count: int = self._channel.queue_declare(queue_name(model), passive=True).message_count
        return count

    def check(self) -> None:
        # A channel is opened by a round trip, on RabbitMQ and on Redis.
        self.connection.channel().close()

    def close(self) -> None:
        with suppress(*_faults(self.connection)):
            self.connection.release()


class KombuPublisher:
    """The `Publisher` on the broker of the settings: RabbitMQ, or Redis for the embedded platform."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="publish")
        self._mine = threading.local()
        self._links: set[_Link] = set()

    async def publish(self, message: JobMessage) -> None:
        begun = time.perf_counter()
        outcome = "error"
        queue = queue_name(message.request.model)
        attributes = {"messaging.destination.name": queue, "messaging.message.id": message.job_id}
        # Under the request that submitted the job, whoever publishes it: also the relay, much later.
        with tracing.span(
            f"send {queue}", "producer", parent=message.origin.traceparent, attributes=attributes
        ):
            try:
                await self._in_thread(partial(self._insist, message))
                outcome = "confirmed"
            except UnavailableError as error:
                outcome = error.code
                raise
            finally:
                metrics.PUBLISHES.labels(outcome).inc()
                metrics.PUBLISH_SECONDS.observe(time.perf_counter() - begun)

    async def check(self) -> None:
        await self._in_thread(partial(self._attempt, _Link.check))

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)
        for link in list(self._links):
            link.close()

    async def _in_thread(self, work: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            # A call that waits for a free thread counts as well: then the broker is slow.
            async with asyncio.timeout(self._settings.publish_timeout_s):
                await loop.run_in_executor(self._pool, work)
        except TimeoutError:
            raise BrokerUnavailable("The broker did not answer in time.") from None

    def _insist(self, message: JobMessage) -> None:
        """Publishes, and tries again where the broker refused although its queue has room: a quorum queue also refuses
        while it elects its leader, just after it was declared or when a node has gone."""
        model = message.request.model
        depth = 0

        def look(link: _Link) -> None:
            nonlocal depth
            depth = link.waiting(model)

        for delay_s in NACK_DELAYS_S:
            try:
                return self._attempt(lambda link: link.publish(message))
            except MessageNacked:
                self._attempt(look)
                if depth >= self._settings.queue_max_length:
                    raise QueueFull("The queue is full.", retry_after_s=5.0) from None
            time.sleep(delay_s)
        raise BrokerUnavailable("The broker refuses messages although its queue has room.")

    def _attempt(self, use: Callable[[_Link], None]) -> None:
        """Once on the connection at hand. It may have died unnoticed, so a fault of it is given a second try on a fresh one."""
        known: _Link | None = getattr(self._mine, "link", None)
        if known is not None:
            faults = _faults(known.connection)
            try:
                return use(known)
            except MessageNacked:
                # Confirms are not correlated: after a refusal the next one could be taken for another's.
                self._drop(known)
                raise
            except PreconditionFailed as error:
                self._drop(known)
                raise _misdeclared(error) from error
            except faults as error:
                self._drop(known)
                log.info("broker_connection_lost", error=type(error).__name__)
        return self._fresh(use)

    def _fresh(self, use: Callable[[_Link], None]) -> None:
        faults = _faults(publisher_connection(self._settings))
        link: _Link | None = None
        try:
            link = _Link(self._settings)
            use(link)
        except MessageNacked:
            self._drop(link)
            raise
        except PreconditionFailed as error:
            self._drop(link)
            raise _misdeclared(error) from error
        except faults as error:
            self._drop(link)
            raise BrokerUnavailable(
                f"The broker did not take the message: {type(error).__name__}."
            ) from error
        except UnavailableError:
            self._drop(link)
            raise
        self._mine.link = link
        self._links.add(link)

    def _drop(self, link: _Link | None) -> None:
        self._mine.link = None
        if link is not None:
            self._links.discard(link)
            link.close()


def open_publisher(settings: BackendSettings) -> KombuPublisher:
    """A publisher on the broker of the settings; it connects at the first use."""
    return KombuPublisher(settings)


def _faults(connection: Connection) -> tuple[type[BaseException], ...]:
    found: tuple[type[BaseException], ...] = (*connection.connection_errors, *connection.channel_errors)
    return (*found, OSError)


def _misdeclared(error: PreconditionFailed) -> BrokerUnavailable:
    return BrokerUnavailable(f"The queue exists with other settings: {error.reply_text}")
