"""How long a job insists on the store of pictures, and the failure that says why it has none."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from contracts.errors import BlobStoreFull, BlobStoreUnavailable
from contracts.jobs import JobFailure

GIVE_UP_S: Final = 3.0
"""So long before its deadline a job fails whose pictures cannot be stored or read: then its record tells why. Longer than the
longest pause between two tries."""


@dataclass(slots=True)
class Hold:
    """Insist until `until` by the monotonic clock, and while the job's lease is not void."""

    until: float
    void: asyncio.Event = field(default_factory=asyncio.Event)


def unstored(what: str, error: BlobStoreUnavailable) -> JobFailure:
    """The failure of a job whose pictures could not be `what`: stored, or read."""
    reason = "has no room" if isinstance(error, BlobStoreFull) else "did not answer"
    message = f"The pictures could not be {what} before the deadline: their store {reason}."
    return JobFailure(code=error.code, message=message, retryable=error.retryable)
