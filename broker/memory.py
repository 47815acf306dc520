"""A publisher in the memory of one process, for tests: it keeps what it is given, and fails when told to."""

from __future__ import annotations

from contracts.errors import UnavailableError
from contracts.jobs import JobMessage


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
