"""Matches publisher confirms to publishes: messages are sent as a group, and one wait serves all of them.

RabbitMQ numbers the publishes of a channel from 1 and answers by number. An answer is an ack or a nack,
for one number or for all numbers up to it. A message that no queue takes is returned before its ack
(https://www.rabbitmq.com/docs/confirms#publisher-confirms). py-amqp's own confirm mode waits after each
publish for any answer, whichever publish it is for. But it passes the numbers to listeners, used here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Answers:
    """The broker's answers for one group, as lists of the caller's keys."""

    taken: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    unroutable: list[int] = field(default_factory=list)


class Confirms:
    """The publishes on one channel that the broker has not answered.

    The channel is put into confirm mode. Nothing else may publish on it.
    """

    def __init__(self, channel: Any) -> None:
        self._sent = 0
        self._unanswered: dict[int, tuple[int, str]] = {}
        """Key and message id by publish number, in ascending order."""
        self._returned: set[str] = set()
        self._answers = Answers()
        channel.confirm_select()
        channel.events["basic_ack"].add(self._ack)
        channel.events["basic_nack"].add(self._nack)
        channel.events["basic_return"].add(self._return)

    def sent(self, key: int, message_id: str) -> None:
        """Record that the message `message_id` was published; `key` is the caller's key for it."""
        self._sent += 1
        self._unanswered[self._sent] = key, message_id

    def wait(self, connection: Any, timeout_s: float) -> None:
        """Wait until every publish is answered.

        Raises the transport's errors, and `TimeoutError` after `timeout_s` seconds.
        """
        until = time.monotonic() + timeout_s
        while self._unanswered:
            connection.drain_events(timeout=max(0.001, until - time.monotonic()))

    def answers(self) -> Answers:
        """The answers since the last call."""
        answers, self._answers, self._returned = self._answers, Answers(), set()
        return answers

    def _ack(self, number: int, multiple: bool) -> None:
        for key, message_id in self._answered(number, multiple):
            keys = self._answers.unroutable if message_id in self._returned else self._answers.taken
            keys.append(key)

    def _nack(self, number: int, multiple: bool) -> None:
        self._answers.refused += [key for key, _ in self._answered(number, multiple)]

    def _return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        self._returned.add(message.properties["message_id"])

    def _answered(self, number: int, multiple: bool) -> list[tuple[int, str]]:
        numbers = [sent for sent in self._unanswered if sent <= number] if multiple else [number]
        return [self._unanswered.pop(answered) for answered in numbers if answered in self._unanswered]
