"""The port of the broker, for senders."""

from __future__ import annotations

from typing import Protocol

from contracts.jobs import JobMessage


class Publisher(Protocol):
    """Puts job messages on the broker."""

    async def publish(self, message: JobMessage) -> None:
        """Return once the broker has confirmed that the message is on a durable queue.

        Raises `BrokerUnavailable` (away, slow, or no such queue) or `QueueFull`. The message may then have
        arrived or not.
        """
        ...

    async def check(self) -> None:
        """Raise `BrokerUnavailable` unless the broker answers now."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
