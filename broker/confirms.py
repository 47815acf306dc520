"""Publisher confirms matched to publishes: messages go out together, one wait serves all, and each gets the answer that is its own.

RabbitMQ numbers the publishes of a channel from 1 on and answers by number: an ack or a nack, for one or for all up to it. A message
that no queue takes comes back before its ack (https://www.rabbitmq.com/docs/confirms#publisher-confirms). py-amqp waits for any answer
after each publish, whichever publish it is about; it hands the numbers to those who listen.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Answers:
    """What the broker has said of one group so far, by the caller's keys."""

    taken: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    unroutable: list[int] = field(default_factory=list)


class Confirms:
    """The publishes on one channel that the broker has not answered. The channel is put into confirm mode, and nothing else may
    publish on it."""

    def __init__(self, channel: Any) -> None:
        self._sent = 0
        self._open: dict[int, tuple[int, str]] = {}
        """Key and message id by number, in the order of the numbers."""
        self._returned: set[str] = set()
        self._answers = Answers()
        channel.confirm_select()
        channel.events["basic_ack"].add(self._ack)
        channel.events["basic_nack"].add(self._nack)
        channel.events["basic_return"].add(self._return)

    def sent(self, key: int, message_id: str) -> None:
        """A message has been published; the caller knows it by `key`."""
        self._sent += 1
        self._open[self._sent] = key, message_id

    def wait(self, connection: Any, timeout_s: float) -> None:
        """Until every publish is answered. Raises the transport's errors, and `TimeoutError` after `timeout_s` seconds."""
        until = time.monotonic() + timeout_s
        while self._open:
            connection.drain_events(timeout=max(0.001, until - time.monotonic()))

    def answers(self) -> Answers:
        """What was said since the last call."""
        answers, self._answers, self._returned = self._answers, Answers(), set()
        return answers

    def _ack(self, number: int, multiple: bool) -> None:
        for key, message_id in self._answered(number, multiple):
            list_ = self._answers.unroutable if message_id in self._returned else self._answers.taken
            list_.append(key)

    def _nack(self, number: int, multiple: bool) -> None:
        self._answers.refused += [key for key, _ in self._answered(number, multiple)]

    def _return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        self._returned.add(message.properties["message_id"])

    def _answered(self, number: int, multiple: bool) -> list[tuple[int, str]]:
        numbers = [each for each in self._open if each <= number] if multiple else [number]
        return [self._open.pop(each) for each in numbers if each in self._open]
