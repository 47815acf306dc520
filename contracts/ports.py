"""The ports of result cache, events, model directory and broker.

Other ports: `contracts.job_store` (job records), `contracts.blobs` (images), `contracts.webhooks`
(deliveries). Where a port has several implementations, one contract suite runs them all.

Every coroutine raises `contracts.errors.StoreUnavailable` or `BrokerUnavailable` when its service is away or slow.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from contracts.jobs import CacheStatus, Change, JobMessage, JobResult
from contracts.models import Announced, ModelSpec, WorkerInfo


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counters and contents of the result cache.

    `hits`, `misses` and `joined` count jobs since the cache was created. Memory and evictions are those of
    its whole server. `hot_entries` and `hot_hits` are of the local result cache (L1) of this process.
    """

    hits: int
    misses: int
    joined: int
    entries: int
    memory_bytes: int
    memory_limit_bytes: int
    evictions: int
    hot_entries: int = 0
    hot_hits: int = 0


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


Tell = Callable[[Change | None], object]
"""A listener for changes of a job; None: no more changes will come."""


class JobEvents(Protocol):
    """Notifies those who wait for a job to change."""

    def hear(self, job_id: str, tell: Tell) -> AbstractAsyncContextManager[None]:
        """Call `tell` on this event loop for every change of the job; it must not raise.

        The subscription is active once the context is entered, so a change after that is not missed.
        `tell(None)` means that no more changes will come.
        """
        ...

    def canceled(self, worker_id: str) -> AsyncGenerator[str]:
        """Ids of canceled jobs that this worker holds.

        The generator ends with its connection and may miss some ids. `contracts.job_store.JobStore.renew`
        reports those later.
        """
        ...


class ResultCache(Protocol):
    """Results by address (`cache.cache_key.result_address`), with a time to live.

    May drop an entry at any time.
    """

    async def get(self, address: str) -> JobResult | None:
        """The result at `address`, from this process or the shared cache; None: a miss."""
        ...

    def peek(self, address: str) -> JobResult | None:
        """The result in this process's own memory; makes no request."""
        ...

    def watch(self, address: str) -> Callable[[JobResult], None]:
        """Prepare to remember a result that arrives by another way (`contracts.transitions.Found`).

        Call this before the lookup, and call the returned function with the result. This process then
        remembers the result, unless something was deleted in between.
        """
        ...

    async def put(self, address: str, result: JobResult) -> None:
        """Store `result` at `address` for the time to live."""
        ...

    async def delete(self, address: str) -> bool:
        """Delete the result at `address` everywhere. Returns whether there was one."""
        ...

    async def purge(self, pattern: str) -> Sequence[str]:
        """Delete all results that match `pattern` (`cache.cache_key.result_pattern`), in every process.

        Returns their cache keys. Results of computations that are still running are stored afterwards.
        """
        ...

    def count(self, outcome: CacheStatus) -> None:
        """Count how the cache answered a job."""
        ...

    async def stats(self) -> CacheStats:
        """Counters and contents of the cache now."""
        ...


class ModelDirectory(Protocol):
    """Which models are served, and by which workers. Workers announce them, the API reads them."""

    async def announce(self, spec: ModelSpec, worker: WorkerInfo) -> None:
        """Announce that `worker` is alive and serves `spec`. Valid for the directory's time to live."""
        ...

    async def withdraw(self, worker: WorkerInfo) -> None:
        """Remove a worker that stops."""
        ...

    async def models(self) -> Announced:
        """Every model that was ever announced, with its live workers."""
        ...

    async def remember_cost(self, model: str, device: str, told: str) -> None:
        """Save what a worker has learnt of the model's speed on this kind of device (`scheduler.cost`)."""
        ...

    async def recall_cost(self, model: str, device: str) -> str | None:
        """What `remember_cost` last saved; None: nothing."""
        ...


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
