"""The port of the dead letters, and what one holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from contracts.jobs import JobMessage


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that the broker has given up on.

    `message` is None where `body` is no job, and `reason` says why. It is also None where only a `newer`
    version can read the job.
    """

    tag: int
    body: bytes
    message: JobMessage | None
    reason: str = ""
    newer: bool = False


class DeadLetters(Protocol):
    """The messages that the broker has given up on. For one user at a time."""

    async def take(self, limit: int) -> list[DeadLetter]:
        """The next messages, at most `limit`. Raises `BrokerUnavailable`.

        The message whose last check is oldest comes first. A message without a verdict stays in place.
        """
        ...

    async def settle(self, verdicts: list[tuple[DeadLetter, bool]]) -> None:
        """Apply verdicts. Raises `BrokerUnavailable`.

        True: the message is done; one that is no job moves to the refused queue. False: it stays for a later round.
        """
        ...

    async def release(self) -> None:
        """Return all held messages to the broker, for another user. Raises `BrokerUnavailable`."""
        ...

    async def close(self) -> None:
        """Release the messages and close all connections."""
        ...
