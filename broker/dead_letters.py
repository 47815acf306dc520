"""What the broker has given up on: messages delivered too often, refused, or met by an unforeseen error. Each job among them
is brought to `failed`; what is no job at all is kept aside for people to look at."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from kombu import Connection, Producer
from pydantic import ValidationError

from broker.relay import publish_all
from broker.topology import (
    DEAD_LETTER_QUEUE,
    dead_letter_queue,
    is_redis,
    publisher_connection,
    refused_queue,
)
from contracts.errors import BrokerUnavailable, DeadLettered
from contracts.jobs import JobFailure, JobMessage
from contracts.ports import Busy, DeadLetter, DeadLetters, Ended, Granted, JobStore, Publisher
from contracts.settings import BackendSettings
from telemetry import metrics
from telemetry.logs import get_logger

LIMIT: Final = 50
"""Letters in one round."""
BURIER: Final = "dead-letters"
FAILURE: Final = JobFailure(
    code=DeadLettered.code,
    message="The message of this job could not be handled, or was delivered too often.",
    retryable=DeadLettered.retryable,
)

log = get_logger(__name__)


async def bury(jobs: JobStore, publisher: Publisher, letters: DeadLetters) -> None:
    """Brings the jobs of the next letters to an end. One that a worker still runs is looked at again later.

    Raises `BrokerUnavailable`, `StoreUnavailable`; then the letters stay where they are.
    """
    taken = await letters.take(LIMIT)
    settled: dict[DeadLetter, bool] = {}
    try:
        for letter in taken:
            if letter.message is None:
                metrics.DEAD_LETTERS.labels("refused").inc()
                log.error("message_kept_aside", reason=letter.reason)
                settled[letter] = True
            else:
                settled[letter] = await _end(jobs, publisher, letter.message)
    finally:
        await letters.settle([(letter, settled.get(letter, False)) for letter in taken])


async def _end(jobs: JobStore, publisher: Publisher, message: JobMessage) -> bool:
    """Whether the job has ended."""
    claim = await jobs.claim(message, BURIER)
    match claim:
        case Busy():
            return False
        case Ended(_, promoted):
            await publish_all(jobs, publisher, promoted, "promoted")
        case Granted(lease):
            finished = await jobs.fail(lease, FAILURE)
            metrics.DEAD_LETTERS.labels("failed").inc()
            log.error("job_dead_lettered", job_id=message.job_id)
            await publish_all(jobs, publisher, finished.promoted, "promoted")
    return True


class KombuDeadLetters:
    """The `DeadLetters` on RabbitMQ, over one connection on a thread of its own. Redis as broker has none: it drops what is
    refused, and the sweeper finds the job by its lapsed lease."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="dead-letters")
        self._connection: Connection | None = None
        self._channel: Any = None

    async def take(self, limit: int) -> list[DeadLetter]:
        if is_redis(self._settings.broker_url):
            return []
        letters: list[DeadLetter] = await self._in_thread(self._take, limit)
        return letters

    async def settle(self, verdicts: list[tuple[DeadLetter, bool]]) -> None:
        if verdicts:
            await self._in_thread(self._settle, verdicts)

    async def close(self) -> None:
        self._pool.submit(self._drop)
        await asyncio.to_thread(self._pool.shutdown)

    async def _in_thread(self, work: Any, *given: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(3 * self._settings.publish_timeout_s):
                return await loop.run_in_executor(self._pool, self._guarded, work, *given)
        except TimeoutError:
            raise BrokerUnavailable("The broker did not answer in time.") from None

    def _guarded(self, work: Any, *given: Any) -> Any:
        known = self._connection or publisher_connection(self._settings)
        try:
            return work(*given)
        except (*known.connection_errors, *known.channel_errors, OSError) as error:
            # The broker gives back by itself what was not settled.
            self._drop()
            raise BrokerUnavailable(f"The dead letters cannot be read: {type(error).__name__}.") from error

    def _take(self, limit: int) -> list[DeadLetter]:
        if self._channel is None:
            self._connection = publisher_connection(self._settings)
            self._connection.connect()
            self._channel = self._connection.channel()
            for queue in (dead_letter_queue(), refused_queue()):
                queue(self._channel).declare()
        letters: list[DeadLetter] = []
        while len(letters) < limit:
            got = self._channel.basic_get(DEAD_LETTER_QUEUE, no_ack=False)
            if got is None:
                break
            letters.append(_letter(got))
        return letters

    def _settle(self, verdicts: list[tuple[DeadLetter, bool]]) -> None:
        for letter, done in verdicts:
            if done and letter.message is None:
                self._keep(letter)
            if done:
                self._channel.basic_ack(letter.tag)
            else:
                self._channel.basic_reject(letter.tag, requeue=True)

    def _keep(self, letter: DeadLetter) -> None:
        Producer(self._channel).publish(
            letter.body,
            exchange="",
            routing_key=refused_queue().name,
            content_type="application/octet-stream",
            content_encoding="binary",
            serializer=None,
            headers={"x-darkroom-reason": letter.reason},
            delivery_mode=2,
            confirm_timeout=self._settings.publish_timeout_s,
        )

    def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with suppress(*connection.connection_errors, *connection.channel_errors, OSError):
                connection.release()


def open_dead_letters(settings: BackendSettings) -> KombuDeadLetters:
    """The dead letters of the settings' broker; connects at the first use."""
    return KombuDeadLetters(settings)


def _letter(got: Any) -> DeadLetter:
    body = got.body if isinstance(got.body, bytes) else str(got.body).encode()
    tag = got.delivery_info["delivery_tag"]
    try:
        # Never by the content type that the message names: it may name pickle.
        message = JobMessage.model_validate(json.loads(body)[0][0])
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        reason = (
            f"{error.error_count()} faults" if isinstance(error, ValidationError) else type(error).__name__
        )
        return DeadLetter(tag, body, None, reason)
    return DeadLetter(tag, body, message)
