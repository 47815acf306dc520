"""One publishing connection to RabbitMQ or Redis. It reports the outcome of each message of a group."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from amqp.exceptions import PreconditionFailed
from kombu import Connection

from broker.confirms import Confirms
from broker.topology import declare, is_redis, publisher_connection, queue_name, task_message
from contracts.errors import BrokerUnavailable, QueueFull
from contracts.jobs import JobMessage
from contracts.settings import BackendSettings


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The message of a job, serialised."""

    job_id: str
    model: str
    body: bytes
    headers: dict[str, Any]
    properties: dict[str, Any]

    @classmethod
    def of(cls, message: JobMessage) -> Outgoing:
        """Serialise a job's message."""
        return cls(message.job_id, message.request.model, *task_message(message))


@dataclass(frozen=True, slots=True)
class Nacked:
    """The broker refused the message. `ready` counts the messages in its queue."""

    ready: int


Verdict = Nacked | Exception | None
"""The outcome of a message. None: it is confirmed."""
Group = Mapping[int, Outgoing]
"""Messages by the caller's keys."""


class Link:
    """A connection with one channel, and the queues that are declared on it.

    The constructor connects, and raises the transport's errors. `faults` are the error types of the
    connection, `channel_faults` those of the channel alone.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._connection: Connection = publisher_connection(settings, confirm=False)
        self.faults = faults_of(self._connection)
        self.channel_faults: tuple[type[BaseException], ...] = tuple(self._connection.channel_errors)
        self._declared: set[str] = set()
        self._confirms: Confirms | None = None
        try:
            self._open()
        except BaseException:
            # The caller never gets this object, so nobody else could close the connection.
            self.close()
            raise

    def publish(self, group: Group, verdicts: dict[int, Verdict]) -> None:
        """Publish the messages of `group`, and put the outcome of each into `verdicts`.

        Raises the transport's errors. A message without a verdict may then have arrived or not, and the
        link must be closed.
        """
        for model in {message.model for message in group.values()}:
            self._declare(model, group, verdicts)
        if self._confirms is None:
            self._publish_to_redis(group, verdicts)
            return
        unroutable = self._publish_confirmed(self._confirms, group, verdicts)
        if unroutable:
            # Their queues were deleted after they were declared.
            self._declared.difference_update(message.model for message in unroutable.values())
            for model in {message.model for message in unroutable.values()}:
                self._declare(model, unroutable, verdicts)
            for key in self._publish_confirmed(self._confirms, unroutable, verdicts):
                verdicts[key] = BrokerUnavailable("No queue takes the message.")

    def check(self) -> None:
        """Make one round trip to RabbitMQ or Redis. Raises the transport's errors."""
        self._connection.channel().close()

    def close(self) -> None:
        """Close the connection. Ignores its errors."""
        with suppress(*self.faults):
            self._connection.release()

    def _open(self) -> None:
        self._connection.connect()
        self._channel: Any = self._connection.channel()
        if not is_redis(self._settings.broker_url):
            # With this capability py-amqp polls the socket before each publish, to see if the broker is blocked. The
            # missing confirm shows that as well.
            self._connection.connection.client_properties["capabilities"].pop("connection.blocked", None)
            self._confirms = Confirms(self._channel)

    def _declare(self, model: str, group: Group, verdicts: dict[int, Verdict]) -> None:
        if model in self._declared:
            return
        try:
            declare(self._channel, model, self._settings)
        except PreconditionFailed as error:
            fault = BrokerUnavailable(f"The queue exists with other settings: {error.reply_text}")
            verdicts.update({key: fault for key, message in group.items() if message.model == model})
            raise
        self._declared.add(model)

    def _publish_confirmed(
        self, confirms: Confirms, group: Group, verdicts: dict[int, Verdict]
    ) -> dict[int, Outgoing]:
        """Send all messages, then wait once for their confirms.

        Returns the messages that no queue took. They have no verdict yet.
        """
        try:
            for key, message in group.items():
                self._send(message, mandatory=True)
                confirms.sent(key, message.job_id)
            confirms.wait(self._connection, self._settings.publish_timeout_s)
        finally:
            # Answers that came before an error are valid.
            answers = confirms.answers()
            verdicts.update(dict.fromkeys(answers.taken))
        ready: dict[str, int] = {}
        for key in answers.refused:
            model = group[key].model
            if model not in ready:
                ready[model] = self._ready_messages(model)
            verdicts[key] = Nacked(ready[model])
        return {key: group[key] for key in answers.unroutable}

    def _publish_to_redis(self, group: Group, verdicts: dict[int, Verdict]) -> None:
        """Publish to Redis.

        Its reply is the confirm. It has no queue limit, so the length is checked here.
        """
        limit = self._settings.queue_max_length
        for key, message in group.items():
            if self._channel.client.llen(queue_name(message.model)) >= limit:
                verdicts[key] = QueueFull(f"{limit} jobs are waiting already.", retry_after_s=5.0)
            else:
                self._send(message)
                verdicts[key] = None

    def _send(self, message: Outgoing, **options: Any) -> None:
        prepared = self._channel.prepare_message(
            message.body,
            content_type="application/json",
            content_encoding="utf-8",
            headers=message.headers,
            properties={**message.properties, "delivery_mode": 2},
        )
        self._channel.basic_publish(prepared, exchange="", routing_key=queue_name(message.model), **options)

    def _ready_messages(self, model: str) -> int:
        count: int = self._channel.queue_declare(queue_name(model), passive=True).message_count
        return count


def faults_of(connection: Connection) -> tuple[type[BaseException], ...]:
    """The errors of a connection or its channel when the broker is away or slow, or refuses an operation."""
    return (*connection.connection_errors, *connection.channel_errors, OSError)
