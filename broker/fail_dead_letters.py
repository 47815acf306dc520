"""Handles dead letters: messages delivered too often, refused, or failed by an unexpected error.

The job of each message is ended as `failed`. A message that is no job goes to the refused queue, for an
operator to look at.
"""

from __future__ import annotations

from typing import Final

from broker.relay import publish_all
from contracts.errors import UnavailableError
from contracts.failures import DeadLettered
from contracts.jobs import JobFailure, JobMessage
from contracts.ports.dead_letters import DeadLetter, DeadLetters
from contracts.ports.job_store import JobStore
from contracts.ports.publisher import Publisher
from contracts.transitions import Busy, Ended, Granted
from telemetry import metrics
from telemetry.logs import get_logger

LIMIT: Final = 50
"""Dead letters per round."""
WORKER_ID: Final = "dead-letters"
"""The name under which the claims of dead letters are made."""
FAILURE: Final = JobFailure(
    code=DeadLettered.code,
    message="The message of this job could not be handled, or was delivered too often.",
    retryable=DeadLettered.retryable,
)

log = get_logger(__name__)


async def fail_dead_letters(jobs: JobStore, publisher: Publisher, letters: DeadLetters) -> None:
    """End the jobs of the next dead letters.

    A job that a worker still runs is checked again later. So is a job that meets an error: the store may be
    away, or only this job's record may be unreadable. The other dead letters come first in the next round.

    Raises `BrokerUnavailable` and `StoreUnavailable`; the dead letters then stay where they are.
    """
    verdicts: list[tuple[DeadLetter, bool]] = []
    try:
        for letter in await letters.take(LIMIT):
            done = False
            try:
                done = await _settle(jobs, publisher, letter)
            finally:
                verdicts.append((letter, done))
    finally:
        await letters.settle(verdicts)


async def _settle(jobs: JobStore, publisher: Publisher, letter: DeadLetter) -> bool:
    """Returns whether the dead letter is done. Raises `UnavailableError`."""
    if letter.newer:
        # A process of that version ends the job.
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
    except Exception as error:  # noqa: BLE001 - an unexpected error concerns this dead letter alone
        metrics.REPAIRED.labels("dead_letter").inc()
        log.error("dead_letter_stays", job_id=letter.message.job_id, error=type(error).__name__)
        return False


async def _end(jobs: JobStore, publisher: Publisher, message: JobMessage) -> bool:
    """End the job. Returns whether it has ended."""
    claim = await jobs.claim(message, WORKER_ID)
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
