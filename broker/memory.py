"""A publisher in the memory of one process, for tests: it keeps what it is given, and fails when told to."""

from __future__ import annotations

from contracts.errors import UnavailableError
from contracts.jobs import JobMessage
from contracts.ports import DeadLetter


class MemoryPublisher:
    """The `Publisher` of tests. `published` holds all messages in order; `fault` is raised while it is set."""

    def __init__(self) -> None:
        self.published: list[JobMessage] = []
        self.fault: UnavailableError | None = None

    async def publish(self, message: JobMessage) -> None:
        if self.fault is not None:
            raise self.fault
        self.published.append(message)

    async def check(self) -> None:
        if self.fault is not None:
            raise self.fault

    async def close(self) -> None:
        return None


class MemoryDeadLetters:
    """The `DeadLetters` of tests: `waiting` holds them in order, `kept` what was no job."""

    def __init__(self) -> None:
        self.waiting: list[DeadLetter] = []
        self.kept: list[DeadLetter] = []

    async def take(self, limit: int) -> list[DeadLetter]:
        return self.waiting[:limit]

    async def settle(self, verdicts: list[tuple[DeadLetter, bool]]) -> None:
        for letter, done in verdicts:
            self.waiting.remove(letter)
            if not done:
                self.waiting.append(letter)
            elif letter.message is None:
                self.kept.append(letter)

    async def release(self) -> None:
        return None

    async def close(self) -> None:
        return None
