"""Retries while a store is away, and the failure of a job whose images cannot be stored or read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from contracts.errors import BlobStoreFull, BlobStoreUnavailable, SigningUnavailable, StoreUnavailable
from contracts.jobs import JobFailure
from contracts.ports.clock import Clock
from telemetry import metrics
from telemetry.logs import get_logger

T = TypeVar("T")

RETRY_S: Final = (0.1, 0.3, 1.0, 2.0)
"""Pauses between tries. The last one repeats."""

GIVE_UP_S: Final = 3.0
"""A job whose images cannot be stored or read fails this long before its deadline.

Its record then says why. This is longer than the longest pause between two tries.
"""

log = get_logger(__name__)


@dataclass(slots=True)
class Hold:
    """Retry until `until` by the monotonic clock, and only while the job's lease is not void."""

    until: float
    void: asyncio.Event = field(default_factory=asyncio.Event)


def unstored(what: str, error: BlobStoreUnavailable) -> JobFailure:
    """The failure of a job whose images could not be stored or read.

    `what` is "stored" or "read".
    """
    if isinstance(error, SigningUnavailable):
        message = "The images could not be signed before the deadline."
    else:
        reason = "has no room" if isinstance(error, BlobStoreFull) else "did not answer"
        message = f"The images could not be {what} before the deadline: their store {reason}."
    return JobFailure(code=error.code, message=message, retryable=error.retryable)


class Retrier:
    """Retries calls of stores that are away, until the worker drains."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._draining = asyncio.Event()

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""
        return self._draining.is_set()

    def drain(self) -> None:
        """End all pauses, and retry no more."""
        self._draining.set()

    async def retry_until_drained(
        self, step: Callable[[], Awaitable[T]], hold: Hold | None = None
    ) -> T | None:
        """The result of `step`, which is retried while its store is away.

        None: the worker drains before the store is back, or the lease of `hold` is void by then.
        Raises `BlobStoreUnavailable` if the image store is away for longer than `hold` allows.
        """
        for delay_s in _growing(RETRY_S):
            try:
                return await step()
            except BlobStoreUnavailable as error:
                metrics.REPAIRED.labels("blob_store").inc()
                log.warning("blob_store_away", code=error.code)
                if hold is not None and self._clock.monotonic() + delay_s >= hold.until:
                    raise
            except StoreUnavailable as error:
                metrics.REPAIRED.labels("store").inc()
                log.warning("store_away", code=error.code)
            if self._draining.is_set():
                return None
            await self.pause(delay_s)
            if hold is not None and hold.void.is_set():
                return None  # the job has ended, and its images need no space
        raise AssertionError

    async def pause(self, seconds: float) -> None:
        """Wait this many seconds, or until the worker drains."""
        try:
            async with asyncio.timeout(seconds):
                await self._draining.wait()
        except TimeoutError:
            return


def _growing(delays_s: Sequence[float]) -> Iterator[float]:
    yield from delays_s
    while True:
        yield delays_s[-1]
