"""All stores in the memory of one process: for tests and tools. One contract suite holds them to what Redis does."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cache.blobs import blob_name, doomed
from cache.credentials import MemoryKeyStore
from cache.events import Watchers
from cache.idempotency import MemoryIdempotencyStore
from cache.keys import covers
from cache.memory_channel import Channel
from cache.memory_jobs import MemoryJobStore
from cache.memory_webhooks import MemoryWebhookStore
from cache.models import served
from cache.quotas import MemoryQuotaLedger
from cache.room import MemoryRoomStore
from cache.stores import Stores
from cache.usage import MemoryUsageStore
from contracts.clock import Clock
from contracts.errors import ImageNotFound
from contracts.jobs import CacheStatus, JobResult
from contracts.models import Announced, ModelSpec, WorkerInfo
from contracts.ports import CacheStats, Deletion, Tell
from contracts.settings import BackendSettings


def memory_stores(settings: BackendSettings, clock: Clock) -> Stores:
    """Fresh, empty stores that share nothing with any other process."""
    watchers, canceled = Watchers(), Channel()

    async def nothing() -> None:
        return None

    webhooks = MemoryWebhookStore(clock)
    jobs = MemoryJobStore(settings, clock, watchers, canceled, webhooks)
    webhooks.read = jobs.get
    return Stores(
        jobs=jobs,
        events=MemoryJobEvents(watchers, canceled),
        results=MemoryResultCache(settings.result_ttl_s, clock),
        models=MemoryModelDirectory(settings.worker_ttl_s, settings.worker_grace_s, clock),
        blobs=MemoryBlobStore(clock),
        check=nothing,
        webhooks=webhooks,
        close=nothing,
        keys=MemoryKeyStore(),
        quotas=MemoryQuotaLedger(settings.job_ttl_s, clock),
        idempotency=MemoryIdempotencyStore(clock),
        room=MemoryRoomStore(),
        usage=MemoryUsageStore(),
    )


class MemoryJobEvents:
    """The `JobEvents` of a `MemoryJobStore`."""

    def __init__(self, watchers: Watchers, canceled: Channel) -> None:
        self._watchers = watchers
        self.canceled = canceled.messages

    @asynccontextmanager
    async def hear(self, job_id: str, tell: Tell) -> AsyncIterator[None]:
        with self._watchers.add(job_id, tell):
            yield


class MemoryResultCache:
    """The `ResultCache` in memory."""

    def __init__(self, ttl_s: float, clock: Clock) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._results: dict[str, tuple[float, JobResult]] = {}
        self._counted: Counter[CacheStatus] = Counter()

    async def get(self, address: str) -> JobResult | None:
        until, result = self._results.get(address, (0.0, None))
        return result if until > self._clock.now() else None

    async def put(self, address: str, result: JobResult) -> None:
        self._results[address] = (self._clock.now() + self._ttl_s, result)

    async def delete(self, address: str) -> bool:
        return self._results.pop(address, None) is not None

    async def purge(self, pattern: str) -> Sequence[str]:
        found = [address for address in self._results if covers(pattern, address)]
        for address in found:
            del self._results[address]
        return [address.rpartition(".")[2] for address in found]

    def count(self, outcome: CacheStatus) -> None:
        self._counted[outcome] += 1

    async def stats(self) -> CacheStats:
        now = self._clock.now()
        return CacheStats(
            hits=self._counted[CacheStatus.HIT],
            misses=self._counted[CacheStatus.MISS],
            joined=self._counted[CacheStatus.JOINED],
            entries=sum(until > now for until, _ in self._results.values()),
            memory_bytes=0,
            memory_limit_bytes=0,
            evictions=0,
        )


class MemoryModelDirectory:
    """The `ModelDirectory` in memory."""

    def __init__(self, worker_ttl_s: float, worker_grace_s: float, clock: Clock) -> None:
        self._ttl_s = worker_ttl_s
        self._grace_s = worker_grace_s
        self._clock = clock
        self._specs: dict[str, ModelSpec] = {}
        self._workers: dict[str, tuple[float, WorkerInfo]] = {}
        self._lately: dict[str, float] = {}
        self._costs: dict[tuple[str, str], str] = {}

    async def announce(self, spec: ModelSpec, worker: WorkerInfo) -> None:
        self._specs[spec.name] = spec
        now = self._clock.now()
        self._workers[worker.id] = (now + self._ttl_s, worker)
        self._lately[spec.name] = now + self._grace_s

    async def withdraw(self, worker: WorkerInfo) -> None:
        self._workers.pop(worker.id, None)

    async def models(self) -> Announced:
        now = self._clock.now()
        for worker_id, (until, worker) in self._workers.items():
            self._workers[worker_id] = (min(until, now + self._ttl_s), worker)
        for model, until in self._lately.items():
            self._lately[model] = min(until, now + self._grace_s)
        alive = [worker for until, worker in self._workers.values() if until > now]
        lately = [model for model, until in self._lately.items() if until > now]
        return Announced(models=tuple(served(list(self._specs.values()), alive, lately)))

    async def remember_cost(self, model: str, device: str, told: str) -> None:
        self._costs[model, device] = told

    async def recall_cost(self, model: str, device: str) -> str | None:
        return self._costs.get((model, device))


class MemoryBlobStore:
    """The `BlobStore` in memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._blobs: dict[str, tuple[float, bytes]] = {}

    async def put(self, data: bytes, extension: str, *, is_input: bool = False) -> str:
        name = blob_name(data, extension, is_input=is_input)
        self._blobs[name] = (self._clock.now(), data)
        return name

    async def get(self, name: str) -> bytes:
        try:
            return self._blobs[name][1]
        except KeyError:
            raise ImageNotFound("There is no such picture.") from None

    async def exists(self, name: str) -> bool:
        return name in self._blobs

    async def space(self) -> tuple[int, int] | None:
        return None

    async def delete(self, name: str, put_before: float) -> Deletion:
        if name not in self._blobs:
            return Deletion.ABSENT
        if self._blobs[name][0] >= put_before:
            return Deletion.YOUNG
        del self._blobs[name]
        return Deletion.DELETED

    async def prune(self, older_than_s: float, max_bytes: int | None) -> int:
        found = sorted((put_at, len(data), name) for name, (put_at, data) in self._blobs.items())
        surplus = doomed(found, self._clock.now() - older_than_s, max_bytes)
        for _, _, name in surplus:
            del self._blobs[name]
        return len(surplus)
