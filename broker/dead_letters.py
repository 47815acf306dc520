"""What the broker has given up on: messages delivered too often, refused, or met by an unforeseen error. Each job among them
is brought to `failed`; what is no job at all is kept aside for people to look at."""

from __future__ import annotations

from typing import Final

from broker.relay import publish_all
from contracts.errors import UnavailableError
from contracts.failures import DeadLettered
from contracts.job_store import JobStore
from contracts.jobs import JobFailure, JobMessage
from contracts.ports import DeadLetter, DeadLetters, Publisher
from contracts.transitions import Busy, Ended, Granted
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


async def fail_dead_letters(jobs: JobStore, publisher: Publisher, letters: DeadLetters) -> None:
    """Brings the jobs of the next letters to an end. One that a worker still runs is looked at again later, and so is one that
    meets an error. The store may be away, or it may be this job's record that cannot be read: the others come first in the next
    round.

    Raises `BrokerUnavailable`, `StoreUnavailable`; then the letters stay where they are.
    """
    looked_at: list[tuple[DeadLetter, bool]] = []
    try:
        for letter in await letters.take(LIMIT):
            done = False
            try:
                done = await _settle(jobs, publisher, letter)
            finally:
                looked_at.append((letter, done))
    finally:
        await letters.settle(looked_at)


async def _settle(jobs: JobStore, publisher: Publisher, letter: DeadLetter) -> bool:
    """Whether the letter is done with. Raises `UnavailableError`."""
    if letter.newer:
        # A process of that version brings its job to an end.
        metrics.RECORDS_UNREADABLE.labels("dead letter").inc()
        return False
    if letter.message is None:
        metrics.DEAD_LETTERS.labels("refused").inc()
        log.error("message_kept_aside", reason=letter.reason)
        return True
    try:
        return await _end(jobs, publisher, letter.message)
    except UnavailableError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this letter alone
        metrics.REPAIRED.labels("dead_letter").inc()
        log.error("dead_letter_stays", job_id=letter.message.job_id, error=type(error).__name__)
        return False


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
