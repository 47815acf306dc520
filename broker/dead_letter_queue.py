"""The queue of dead letters on RabbitMQ.

A dead letter that cannot be settled yet stays unacknowledged, and is checked again. It is not requeued:
since RabbitMQ 4.0 a quorum queue drops a message that was requeued 20 times, and an existing queue cannot
be declared again with another limit. A lost connection also requeues held messages. A message that was
requeued often, or is held for long, is therefore replaced by a fresh copy.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from amqp.exceptions import MessageNacked
from kombu import Connection
from pydantic import ValidationError

from broker.topology import (
    DEAD_LETTER_QUEUE,
    dead_letter_queue,
    is_redis,
    publisher_connection,
    refused_queue,
)
from contracts.errors import BrokerUnavailable
from contracts.jobs import Envelope, JobMessage
from contracts.ports.clock import Clock
from contracts.ports.dead_letters import DeadLetter
from contracts.settings import BackendSettings
from runtime.clock import SystemClock

T = TypeVar("T")

HELD: Final = 1000
"""How many dead letters are held at most. This bounds the memory and the duration of a full round."""
RENEW_AFTER_RETURNS: Final = 10
"""Half of RabbitMQ 4's delivery limit for a queue without its own limit."""
RENEW_AFTER_S: Final = 600.0
"""In seconds: a third of RabbitMQ's `consumer_timeout`, after which it requeues unacknowledged messages."""

NOWHERE: Final = "darkroom.nowhere"
"""A routing key that no queue has."""


def must_renew(returns: int, held_s: float) -> bool:
    """Whether a dead letter needs a fresh copy now, before the broker drops or requeues it."""
    return returns >= RENEW_AFTER_RETURNS or held_s >= RENEW_AFTER_S


@dataclass(frozen=True, slots=True)
class _Held:
    """An unacknowledged dead letter: its message as received, and since when it is held."""

    letter: DeadLetter
    received: Any
    since: float

    @property
    def headers(self) -> dict[str, Any]:
        return self.received.properties.get("application_headers") or {}

    @property
    def returns(self) -> int:
        return int(self.headers.get("x-delivery-count") or 0)


class KombuDeadLetters:
    """The `DeadLetters` port on RabbitMQ, in a separate thread.

    Redis as broker has no dead letters: it drops refused messages, and the sweeper finds the job by its
    lapsed lease.

    Dead letters are read and acknowledged on one connection, and copies are published on another. A broker
    short of disk or memory stops reading from connections that publish.
    """

    def __init__(self, settings: BackendSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="dead-letters")
        self._reader = _LazyChannel(settings)
        self._writer = _LazyChannel(settings)
        self._held: dict[int, _Held] = {}
        """By delivery tag; the letter whose last check is oldest comes first."""

    async def take(self, limit: int) -> list[DeadLetter]:
        """See `DeadLetters.take`. On Redis there are none."""
        if is_redis(self._settings.broker_url):
            return []
        return await self._in_thread(lambda: self._take(limit))

    async def settle(self, verdicts: list[tuple[DeadLetter, bool]]) -> None:
        """See `DeadLetters.settle`."""
        if verdicts:
            await self._in_thread(lambda: self._settle(verdicts))

    async def release(self) -> None:
        """See `DeadLetters.release`."""
        if self._held:
            await self._in_thread(self._drop)

    async def close(self) -> None:
        """Close the connections and end the thread. The broker requeues what is held."""
        self._pool.submit(self._drop)
        await asyncio.to_thread(self._pool.shutdown)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(3 * self._settings.publish_timeout_s):
                return await loop.run_in_executor(self._pool, work)
        except TimeoutError:
            raise BrokerUnavailable("The broker did not answer in time.") from None

    def _take(self, limit: int) -> list[DeadLetter]:
        try:
            self._receive(limit)
        except self._reader.faults as error:
            raise self._connection_lost(error) from error
        return [held.letter for held in list(self._held.values())[:limit]]

    def _receive(self, limit: int) -> None:
        """Receive and hold up to `limit` more messages. Raises the transport's errors."""
        channel = self._reader.channel()
        for _ in range(min(limit, HELD - len(self._held))):
            received = channel.basic_get(DEAD_LETTER_QUEUE, no_ack=False)
            if received is None:
                return
            letter = _letter(received)
            self._held[letter.tag] = _Held(letter, received, self._clock.monotonic())

    def _settle(self, verdicts: list[tuple[DeadLetter, bool]]) -> None:
        """Apply verdicts. Plain acknowledgements come first, so a failed publish does not delay them."""
        known = [(self._held.get(letter.tag), letter, done) for letter, done in verdicts]
        # Tags start again on a new connection: a verdict on a message that was requeued meanwhile is void.
        valid = [(held, done) for held, letter, done in known if held is not None and held.letter is letter]
        writes: list[tuple[_Held, str]] = []
        now = self._clock.monotonic()
        for held, done in valid:
            if done and held.letter.message is not None:
                self._acknowledge(held)
            elif done:
                writes.append((held, refused_queue().name))
            elif must_renew(held.returns, now - held.since):
                writes.append((held, DEAD_LETTER_QUEUE))
            else:
                self._held[held.letter.tag] = self._held.pop(held.letter.tag)
        for held, queue in writes:
            try:
                self._probe()
                self._publish(held, queue)
            except self._writer.faults as error:
                self._writer.drop()
                raise _unreadable(error) from error
            self._acknowledge(held)

    def _acknowledge(self, held: _Held) -> None:
        try:
            self._reader.channel().basic_ack(held.letter.tag)
        except self._reader.faults as error:
            raise self._connection_lost(error) from error
        del self._held[held.letter.tag]

    def _probe(self) -> None:
        """Check that the broker accepts publishes now, with two messages that it drops.

        A broker short of disk or memory reads the first publish on a connection, but no second one. It handles
        what was sent once it reads again. Without this check, a copy that was tried ten times would exist ten
        times. Raises the transport's errors.
        """
        channel = self._writer.channel()
        confirm_s = self._settings.publish_timeout_s
        nothing = channel.prepare_message(b"", properties={"delivery_mode": 1})
        for _ in range(2):
            channel.basic_publish(nothing, exchange="", routing_key=NOWHERE, confirm_timeout=confirm_s)

    def _publish(self, held: _Held, queue: str) -> None:
        """Publish a copy of the message, confirmed.

        It keeps only the properties that say how to read it. Others have a meaning for the broker (`CC`,
        `user_id`, `expiration`).
        """
        channel = self._writer.channel()
        properties = held.received.properties
        kept_aside = queue != DEAD_LETTER_QUEUE
        message = channel.prepare_message(
            held.letter.body,
            content_type="application/octet-stream" if kept_aside else properties.get("content_type"),
            content_encoding="binary" if kept_aside else properties.get("content_encoding"),
            headers={"x-darkroom-reason": held.letter.reason} if kept_aside else {},
            properties={"delivery_mode": 2},
        )
        channel.basic_publish(
            message,
            exchange="",
            routing_key=queue,
            mandatory=True,
            confirm_timeout=self._settings.publish_timeout_s,
        )

    def _connection_lost(self, error: BaseException) -> BrokerUnavailable:
        self._drop()
        return _unreadable(error)

    def _drop(self) -> None:
        """Close the connections. The broker requeues what is held."""
        self._held.clear()
        self._reader.drop()
        self._writer.drop()


class _LazyChannel:
    """A connection with one channel, opened at its first use. `faults` are the error types that it raises."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._connection: Connection = publisher_connection(settings)
        self._channel: Any = None
        self.faults: tuple[type[BaseException], ...] = (
            *self._connection.connection_errors,
            *self._connection.channel_errors,
            MessageNacked,
            OSError,
        )

    def channel(self) -> Any:
        if self._channel is None:
            self._connection.connect()
            channel = self._connection.channel()
            # Keep the body as bytes, whatever encoding the message names.
            channel.auto_decode = False
            for queue in (dead_letter_queue(), refused_queue()):
                queue(channel).declare()
            self._channel = channel
        return self._channel

    def drop(self) -> None:
        connection, self._connection, self._channel = (
            self._connection,
            publisher_connection(self._settings),
            None,
        )
        with suppress(*self.faults):
            connection.release()


def open_dead_letters(settings: BackendSettings) -> KombuDeadLetters:
    """The dead letters of the settings' broker. Connects at the first use."""
    return KombuDeadLetters(settings, SystemClock())


def _unreadable(error: BaseException) -> BrokerUnavailable:
    return BrokerUnavailable(f"The dead letters cannot be read: {type(error).__name__}.")


def _letter(received: Any) -> DeadLetter:
    # py-amqp does not return an empty body as bytes.
    body = received.body or b""
    tag = received.delivery_info["delivery_tag"]
    try:
        # Ignores the content type that the message names: it may be pickle.
        document = json.loads(body)[0][0]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        return DeadLetter(tag, body, None, type(error).__name__)
    try:
        message = JobMessage.model_validate(document)
    except ValidationError as error:
        return DeadLetter(tag, body, None, f"{error.error_count()} faults", newer=_is_newer(document))
    return DeadLetter(tag, body, message, newer=not message.readable)


def _is_newer(document: Any) -> bool:
    try:
        return not Envelope.model_validate(document).readable
    except ValidationError:
        return False
