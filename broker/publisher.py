"""Confirmed publishing off the event loop.

Concurrent messages share a connection, a flush and one wait for confirms.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from broker.publishing_link import Group, Link, Nacked, Outgoing, Verdict, faults_of
from broker.topology import publisher_connection, queue_name
from contracts.errors import BrokerUnavailable, QueueFull, UnavailableError
from contracts.jobs import JobMessage
from contracts.settings import BackendSettings
from runtime.grouping import Grouped
from telemetry import metrics, tracing
from telemetry.logs import get_logger

T = TypeVar("T")

LANES: Final = 2
"""How many groups are published at once, each on its connection and thread."""
PATIENCE_S: Final = 0.05
"""How long messages wait for the previous group, in seconds, before they are published beside it.

While they wait, they form one group. A group costs more than a message, for us and for the broker. But a group that
hangs must not delay the others.
"""
MAX_GROUP: Final = 64
"""RabbitMQ still accepts the part of a group that it has read when its queue becomes full. So a queue may exceed its
limit by this many messages."""
NACK_DELAYS_S: Final = (0.05, 0.1, 0.2, 0.4)
"""Delays between attempts after a nack, in seconds."""

log = get_logger(__name__)


class KombuPublisher:
    """The `Publisher` port on the settings' broker: RabbitMQ, or Redis for the embedded platform."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        # One thread more than lanes, so a check waits for no group.
        self._pool = ThreadPoolExecutor(LANES + 1, thread_name_prefix="publish")
        self._idle: list[Link] = []
        """The link that was used last is at the end, and is taken first."""
        self._groups: Grouped[Outgoing, Nacked | None] = Grouped(
            self._publish_group, limit=MAX_GROUP, at_once=LANES, patience_s=PATIENCE_S
        )

    async def publish(self, message: JobMessage) -> None:
        """See `Publisher.publish`. Also traces and counts the publish."""
        begun = time.perf_counter()
        outcome = "error"
        queue = queue_name(message.request.model)
        attributes = {"messaging.destination.name": queue, "messaging.message.id": message.job_id}
        # The parent is the request that submitted the job, also if the relay publishes it much later.
        with tracing.span(
            f"send {queue}", "producer", parent=message.origin.traceparent, attributes=attributes
        ):
            try:
                async with asyncio.timeout(self._settings.publish_timeout_s):
                    await self._publish_with_retries(Outgoing.of(message))
                outcome = "confirmed"
            except TimeoutError:
                outcome = BrokerUnavailable.code
                raise BrokerUnavailable("The broker did not answer in time.") from None
            except UnavailableError as error:
                outcome = error.code
                raise
            finally:
                metrics.PUBLISHES.labels(outcome).inc()
                metrics.PUBLISH_SECONDS.observe(time.perf_counter() - begun)

    async def check(self) -> None:
        """See `Publisher.check`."""
        try:
            async with asyncio.timeout(self._settings.publish_timeout_s):
                await self._in_thread(self._check)
        except TimeoutError:
            raise BrokerUnavailable("The broker did not answer in time.") from None

    async def close(self) -> None:
        """Wait for running publishes, then close all connections."""
        await asyncio.to_thread(self._pool.shutdown)
        for link in self._idle:
            link.close()

    async def _publish_with_retries(self, message: Outgoing) -> None:
        """Publish, and retry a nack while the queue has room.

        A quorum queue also nacks while it elects a leader: just after it was declared, or when a node has gone.
        """
        for delay_s in NACK_DELAYS_S:
            nacked = await self._groups.add(message)
            if nacked is None:
                return
            if nacked.ready >= self._settings.queue_max_length:
                raise QueueFull("The queue is full.", retry_after_s=5.0)
            await asyncio.sleep(delay_s)
        raise BrokerUnavailable("The broker refuses messages although its queue has room.")

    async def _publish_group(self, messages: Sequence[Outgoing]) -> Sequence[Verdict]:
        return await self._in_thread(lambda: self._publish(messages))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _publish(self, messages: Sequence[Outgoing]) -> list[Verdict]:
        """The verdict on each message, in order."""
        verdicts: dict[int, Verdict] = {}
        self._collect_verdicts(dict(enumerate(messages)), verdicts)
        return [verdicts[key] for key in range(len(messages))]

    def _collect_verdicts(self, group: Group, verdicts: dict[int, Verdict]) -> None:
        """Put a verdict on each message of the group into `verdicts`."""
        link = self._take_idle()
        if link is not None:
            # This connection may have died unnoticed. After a fault, the rest is tried on a fresh one.
            try:
                link.publish(group, verdicts)
                self._return_idle(link)
            except TimeoutError:
                # The publish has timed out for every client.
                link.close()
                self._mark_failed(group, verdicts, "it did not answer in time")
            except link.faults as error:
                link.close()
                log.info("broker_connection_lost", error=type(error).__name__)
                if isinstance(error, link.channel_faults):
                    self._publish_one_by_one(group, verdicts)
            except BaseException:
                link.close()
                raise
        while left := _unanswered(group, verdicts):
            self._publish_on_new_link(left, verdicts)

    def _publish_on_new_link(self, group: Group, verdicts: dict[int, Verdict]) -> None:
        """Publish the group on a fresh connection. At least one of its messages has a verdict afterwards."""
        link: Link | None = None
        faults = faults_of(publisher_connection(self._settings))
        try:
            link = Link(self._settings)
            link.publish(group, verdicts)
            self._return_idle(link)
        except faults as error:
            if link is not None:
                link.close()
            if link is not None and isinstance(error, link.channel_faults):
                self._publish_one_by_one(group, verdicts)
            if len(_unanswered(group, verdicts)) == len(group):
                self._mark_failed(group, verdicts, type(error).__name__)
        except BaseException:
            if link is not None:
                link.close()
            raise

    def _publish_one_by_one(self, group: Group, verdicts: dict[int, Verdict]) -> None:
        """Publish each remaining message alone: the broker rejects one of them and does not say which."""
        left = _unanswered(group, verdicts)
        if len(left) < 2 or len(left) < len(group):
            return  # the rejected message is known; the others are published together
        until = time.monotonic() + self._settings.publish_timeout_s
        for key, message in left.items():
            if time.monotonic() > until:
                self._mark_failed(group, verdicts, "it did not answer in time")
                return
            self._collect_verdicts({key: message}, verdicts)

    def _take_idle(self) -> Link | None:
        """An idle link, or None. Threads may race for the last one, so it pops instead of checking first."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _return_idle(self, link: Link) -> None:
        if len(self._idle) < LANES:
            self._idle.append(link)
        else:
            link.close()

    def _mark_failed(self, group: Group, verdicts: dict[int, Verdict], why: str) -> None:
        for key in _unanswered(group, verdicts):
            verdicts[key] = BrokerUnavailable(f"The broker did not take the message: {why}.")

    def _check(self) -> None:
        faults = faults_of(publisher_connection(self._settings))
        link = self._take_idle()
        try:
            if link is not None:
                try:
                    link.check()
                except faults:
                    link.close()
                    link = None
            if link is None:
                link = Link(self._settings)
                link.check()
        except faults as error:
            if link is not None:
                link.close()
            raise BrokerUnavailable(f"The broker does not answer: {type(error).__name__}.") from error
        except BaseException:
            if link is not None:
                link.close()
            raise
        self._return_idle(link)


def open_publisher(settings: BackendSettings) -> KombuPublisher:
    """A publisher on the settings' broker. It connects at the first use."""
    return KombuPublisher(settings)


def _unanswered(group: Group, verdicts: dict[int, Verdict]) -> dict[int, Outgoing]:
    return {key: message for key, message in group.items() if key not in verdicts}
