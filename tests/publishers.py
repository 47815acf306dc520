"""A publisher that keeps what it is given, and fails when a test says so.

It stays a fake: tests of the API, the worker and the sweeper read back what was published, in its order, and need a broker that
refuses one call and takes the next. `tests/broker` and `tests/integration` publish to a real RabbitMQ.
"""

from __future__ import annotations

from contracts.errors import UnavailableError
from contracts.jobs import JobMessage


class RecordingPublisher:
    """A `Publisher`. `published` holds all messages in order; `fault` is raised while it is set."""

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
