"""The ports: what the rooms ask of cache, events and broker. `contracts.job_store` is that of the records, `contracts.blobs` of the
pictures, `contracts.webhooks` of what is owed to receivers. Where a port has several implementations, one contract suite runs them all.

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
    """What the result cache has done since it was begun, and what it holds. `hits`, `misses` and `joined` count jobs. Memory and
    evictions are those of its whole server. `hot` is the first level of this process."""

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
    """A message that the broker has given up on. `message` is None where `body` is no job, and `reason` says why; or where only
    a `newer` version can read the job."""

    tag: int
    body: bytes
    message: JobMessage | None
    reason: str = ""
    newer: bool = False


Tell = Callable[[Change | None], object]


class JobEvents(Protocol):
    """Wakes those who wait for a job to change."""

    def hear(self, job_id: str, tell: Tell) -> AbstractAsyncContextManager[None]:
        """`tell` hears of every change, on this event loop, and must not raise. On entry that is in force, so a state read
        after it cannot be missed. None: nothing more will be heard."""
        ...

    def canceled(self, worker_id: str) -> AsyncGenerator[str]:
        """Ids of jobs that were canceled in the hands of this worker. Ends with its connection; it may miss some, which
        `contracts.job_store.JobStore.renew` tells later."""
        ...


class ResultCache(Protocol):
    """Results by address (`cache.cache_key.result_address`), with a time to live. May forget at any time."""

    async def get(self, address: str) -> JobResult | None: ...

    def peek(self, address: str) -> JobResult | None:
        """What this process remembers by itself; it asks nobody."""
        ...

    def watch(self, address: str) -> Callable[[JobResult], None]:
        """For a result that comes by another way (`Found`): call this before it is asked for, and what it answers with the result. This
        process then remembers it, unless something was forgotten in between."""
        ...

    async def put(self, address: str, result: JobResult) -> None: ...

    async def delete(self, address: str) -> bool: ...

    async def purge(self, pattern: str) -> Sequence[str]:
        """Forget all results of a pattern (`cache.cache_key.result_pattern`), here and in the first level of every process;
        answers their keys. What is being computed meanwhile comes after."""
        ...

    def count(self, outcome: CacheStatus) -> None:
        """Note how the cache took a job."""
        ...

    async def stats(self) -> CacheStats: ...


class ModelDirectory(Protocol):
    """Which models are served, by whom: workers announce, the API reads."""

    async def announce(self, spec: ModelSpec, worker: WorkerInfo) -> None:
        """Say that `worker` is alive and serves `spec`; holds for the directory's time to live."""
        ...

    async def withdraw(self, worker: WorkerInfo) -> None:
        """The worker leaves."""
        ...

    async def models(self) -> Announced:
        """Every model ever announced, with its live workers."""
        ...

    async def remember_cost(self, model: str, device: str, told: str) -> None:
        """Keep what a worker has learnt of the model's speed on that kind of device (`scheduler.cost`)."""
        ...

    async def recall_cost(self, model: str, device: str) -> str | None:
        """What was last remembered."""
        ...


class Publisher(Protocol):
    """Puts job messages on the broker."""

    async def publish(self, message: JobMessage) -> None:
        """Returns once the broker has confirmed that the message is on a durable queue.

        Raises `BrokerUnavailable` (away, slow, or no such queue) or `QueueFull`; then the message may or may not have arrived.
        """
        ...

    async def check(self) -> None:
        """Raises `BrokerUnavailable` unless the broker answers now."""
        ...

    async def close(self) -> None: ...


class DeadLetters(Protocol):
    """The messages that the broker has given up on. One user at a time."""

    async def take(self, limit: int) -> list[DeadLetter]:
        """The next ones: what was looked at longest ago comes first, and what is not settled stays first. Raises
        `BrokerUnavailable`."""
        ...

    async def settle(self, verdicts: list[tuple[DeadLetter, bool]]) -> None:
        """True: done with; what is no job is kept aside. False: it stays, for another time. Raises `BrokerUnavailable`."""
        ...

    async def release(self) -> None:
        """Leaves the letters to another user: those that stay go back to the broker. Raises `BrokerUnavailable`."""
        ...

    async def close(self) -> None: ...
