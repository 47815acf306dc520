"""Confirmed publishing off the event loop. Messages that meet share a connection, a flush and one wait for their confirms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from broker.link import Group, Link, Nacked, Outgoing, Verdict, faults_of
from broker.topology import publisher_connection, queue_name
from contracts.errors import BrokerUnavailable, QueueFull, UnavailableError
from contracts.grouping import Grouped
from contracts.jobs import JobMessage
from contracts.settings import BackendSettings
from telemetry import metrics, tracing
from telemetry.logs import get_logger

T = TypeVar("T")

LANES: Final = 2
"""Groups on their way at once, each on a connection and a thread of its own."""
PATIENCE_S: Final = 0.05
"""How long messages wait for the group before them, and so grow into one, before they go beside it. A group costs us and the broker
more than a message does; one that hangs must not hold up the others."""
MAX_GROUP: Final = 64
"""RabbitMQ lets in what has come of a group by the time its queue is full: a queue may get longer than it should by so many."""
NACK_DELAYS_S: Final = (0.05, 0.1, 0.2, 0.4)

log = get_logger(__name__)


class KombuPublisher:
    """The `Publisher` on the broker of the settings: RabbitMQ, or Redis for the embedded platform."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        # One more than there are lanes: a check waits for no group.
        self._pool = ThreadPoolExecutor(LANES + 1, thread_name_prefix="publish")
        self._idle: list[Link] = []
        """The one that was used last comes last, and is taken first."""
        self._groups: Grouped[Outgoing, Nacked | None] = Grouped(
            self._carry, limit=MAX_GROUP, at_once=LANES, patience_s=PATIENCE_S
        )

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
                async with asyncio.timeout(self._settings.publish_timeout_s):
                    await self._insist(Outgoing.of(message))
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
        try:
            async with asyncio.timeout(self._settings.publish_timeout_s):
                await self._in_thread(self._check)
        except TimeoutError:
            raise BrokerUnavailable("The broker did not answer in time.") from None

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)
        for link in self._idle:
            link.close()

    async def _insist(self, message: Outgoing) -> None:
        """Publishes, and tries again where the broker refused although its queue has room: a quorum queue also refuses
        while it elects its leader, just after it was declared or when a node has gone."""
        for delay_s in NACK_DELAYS_S:
            nacked = await self._groups.add(message)
            if nacked is None:
                return
            if nacked.ready >= self._settings.queue_max_length:
                raise QueueFull("The queue is full.", retry_after_s=5.0)
            await asyncio.sleep(delay_s)
        raise BrokerUnavailable("The broker refuses messages although its queue has room.")

    async def _carry(self, messages: Sequence[Outgoing]) -> Sequence[Verdict]:
        return await self._in_thread(lambda: self._publish(messages))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _publish(self, messages: Sequence[Outgoing]) -> list[Verdict]:
        """The verdict on each message, in their order."""
        verdicts: dict[int, Verdict] = {}
        self._settle(dict(enumerate(messages)), verdicts)
        return [verdicts[key] for key in range(len(messages))]

    def _settle(self, group: Group, verdicts: dict[int, Verdict]) -> None:
        """Notes a verdict on each message of the group."""
        link = self._spare()
        if link is not None:
            # This connection may have died unnoticed: a fault of it is given a second try on a fresh one.
            try:
                link.publish(group, verdicts)
                self._keep(link)
            except TimeoutError:
                # No client waits any longer.
                link.close()
                self._give_up(group, verdicts, "it did not answer in time")
            except link.faults as error:
                link.close()
                log.info("broker_connection_lost", error=type(error).__name__)
                if isinstance(error, link.channel_faults):
                    self._one_by_one(group, verdicts)
            except BaseException:
                link.close()
                raise
        while left := _unanswered(group, verdicts):
            self._freshly(left, verdicts)

    def _freshly(self, group: Group, verdicts: dict[int, Verdict]) -> None:
        """Publishes the group on a fresh connection. At least one of its messages has a verdict afterwards."""
        link: Link | None = None
        faults = faults_of(publisher_connection(self._settings))
        try:
            link = Link(self._settings)
            link.publish(group, verdicts)
            self._keep(link)
        except faults as error:
            if link is not None:
                link.close()
            if link is not None and isinstance(error, link.channel_faults):
                self._one_by_one(group, verdicts)
            if len(_unanswered(group, verdicts)) == len(group):
                self._give_up(group, verdicts, type(error).__name__)
        except BaseException:
            if link is not None:
                link.close()
            raise

    def _one_by_one(self, group: Group, verdicts: dict[int, Verdict]) -> None:
        """The broker objects to one message of the group, and does not say to which: each of those left is published alone."""
        left = _unanswered(group, verdicts)
        if len(left) < 2 or len(left) < len(group):
            return  # it is known: the others are published together
        until = time.monotonic() + self._settings.publish_timeout_s
        for key, message in left.items():
            if time.monotonic() > until:
                self._give_up(group, verdicts, "it did not answer in time")
                return
            self._settle({key: message}, verdicts)

    def _spare(self) -> Link | None:
        """An idle connection. The threads may race for the last one: only the taking itself tells who has it."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _keep(self, link: Link) -> None:
        if len(self._idle) < LANES:
            self._idle.append(link)
        else:
            link.close()

    def _give_up(self, group: Group, verdicts: dict[int, Verdict], why: str) -> None:
        for key in _unanswered(group, verdicts):
            verdicts[key] = BrokerUnavailable(f"The broker did not take the message: {why}.")

    def _check(self) -> None:
        faults = faults_of(publisher_connection(self._settings))
        link = self._spare()
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
        self._keep(link)


def open_publisher(settings: BackendSettings) -> KombuPublisher:
    """A publisher on the broker of the settings; it connects at the first use."""
    return KombuPublisher(settings)


def _unanswered(group: Group, verdicts: dict[int, Verdict]) -> dict[int, Outgoing]:
    return {key: message for key, message in group.items() if key not in verdicts}
