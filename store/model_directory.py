"""The model directory in Redis. Specifications stay for good, workers for as long as they announce
themselves."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import partial
from typing import Final

from redis.asyncio import Redis

from backends.redis_client import store_errors
from contracts.errors import StoreFull
from contracts.models import Announced, ModelSpec, ServedModel, WorkerInfo
from store.records import read_all

PREFIX: Final = "darkroom:{models}:"


class RedisModelDirectory:
    """The `ModelDirectory` on a Redis server.

    It has a hash of specifications, a set of worker ids, a key with a time to live for each worker,
    and a key with a longer time to live for each model that had a worker.
    """

    def __init__(self, client: Redis, worker_ttl_s: float, worker_grace_s: float, timeout_s: float) -> None:
        self._client = client
        self._ttl_ms = math.ceil(worker_ttl_s * 1000)
        self._grace_ms = math.ceil(worker_grace_s * 1000)
        self._timeout_s = timeout_s

    async def announce(self, spec: ModelSpec, worker: WorkerInfo) -> None:
        """Record that the worker is alive and serves `spec`, for the directory's time to live.
        Raises `StoreUnavailable`, `StoreFull`."""
        try:
            await self._announce(spec, worker)
        except StoreFull:
            # Earlier announcements stay: a worker that still finishes jobs must not look gone.
            async with store_errors("model directory", self._timeout_s), self._client.pipeline() as pipeline:
                pipeline.pexpire(f"{PREFIX}worker:{worker.id}", self._ttl_ms)
                if self._grace_ms:
                    pipeline.pexpire(f"{PREFIX}lately:{spec.name}", self._grace_ms)
                await pipeline.execute()
            raise

    async def _announce(self, spec: ModelSpec, worker: WorkerInfo) -> None:
        async with store_errors("model directory", self._timeout_s), self._client.pipeline() as pipeline:
            pipeline.hset(f"{PREFIX}specs", spec.name, spec.model_dump_json())
            pipeline.sadd(f"{PREFIX}workers", worker.id)
            pipeline.set(f"{PREFIX}worker:{worker.id}", worker.model_dump_json(), px=self._ttl_ms)
            if self._grace_ms:
                pipeline.set(f"{PREFIX}lately:{spec.name}", "", px=self._grace_ms)
            await pipeline.execute()

    async def withdraw(self, worker: WorkerInfo) -> None:
        """Remove the worker. Raises `StoreUnavailable`."""
        async with store_errors("model directory", self._timeout_s), self._client.pipeline() as pipeline:
            pipeline.srem(f"{PREFIX}workers", worker.id)
            pipeline.delete(f"{PREFIX}worker:{worker.id}")
            await pipeline.execute()

    async def models(self) -> Announced:
        """Every model ever announced, with its live workers. Raises `StoreUnavailable`."""
        async with store_errors("model directory", self._timeout_s):
            async with self._client.pipeline() as pipeline:
                pipeline.hgetall(f"{PREFIX}specs")
                pipeline.smembers(f"{PREFIX}workers")
                specs, ids = await pipeline.execute()
            names, models = sorted(ids), sorted(specs)
            keys = [f"{PREFIX}worker:{name}" for name in names] + [
                f"{PREFIX}lately:{name}" for name in models
            ]
            values = await self._client.mget(keys) if keys else []
            await self._shorten(keys[: len(names)], self._ttl_ms)
            await self._shorten(keys[len(names) :], self._grace_ms)
            infos, lately_marks = values[: len(names)], values[len(names) :]
            gone = [name for name, info in zip(names, infos, strict=True) if info is None]
            if gone:
                await self._client.srem(f"{PREFIX}workers", *gone)
        workers = read_all(
            "worker",
            (
                (name, partial(WorkerInfo.model_validate_json, info))
                for name, info in zip(names, infos, strict=True)
                if info is not None
            ),
        )
        lately = {name for name, value in zip(models, lately_marks, strict=True) if value is not None}
        readable_specs = read_all("model", ((name, partial(_spec_of, text)) for name, text in specs.items()))
        return Announced(
            models=tuple(served(readable_specs, workers, lately)),
            unreadable=frozenset(specs) - {spec.name for spec in readable_specs},
        )

    async def _shorten(self, keys: Sequence[str], longest_ms: int) -> None:
        """Cuts times to live that exceed the longest one given, as after the server's clock was set
        back. A live worker announces itself again."""
        async with self._client.pipeline() as pipeline:
            for key in keys:
                pipeline.pttl(key)
            all_remaining_ms = await pipeline.execute()
            for key, remaining_ms in zip(keys, all_remaining_ms, strict=True):
                if remaining_ms > longest_ms:
                    pipeline.pexpire(key, longest_ms)
            await pipeline.execute()

    async def remember_cost(self, model: str, device: str, cost: str) -> None:
        """Keep the cost that a worker measured for the model on this device. Raises
        `StoreUnavailable`, `StoreFull`."""
        async with store_errors("model directory", self._timeout_s):
            await self._client.hset(f"{PREFIX}cost", f"{model} {device}", cost)

    async def recall_cost(self, model: str, device: str) -> str | None:
        """The cost that was kept last; None: there is none. Raises `StoreUnavailable`."""
        async with store_errors("model directory", self._timeout_s):
            cost = await self._client.hget(f"{PREFIX}cost", f"{model} {device}")
        return None if cost is None else str(cost)


def _spec_of(text: str) -> ModelSpec:
    spec = ModelSpec.model_validate_json(text)
    if not spec.readable:
        raise ValueError(f"needs schema {spec.min_schema}")
    return spec


def served(
    specs: Sequence[ModelSpec], workers: Sequence[WorkerInfo], lately: Collection[str]
) -> list[ServedModel]:
    """Every specification with its workers, models by name and workers by id. `lately` are models
    that had a worker lately. Pure."""
    by_model: dict[str, list[WorkerInfo]] = defaultdict(list)
    for worker in sorted(workers, key=lambda worker: worker.id):
        by_model[worker.model].append(worker)
    return [
        ServedModel(
            spec=spec,
            workers=tuple(by_model[spec.name]),
            awaited=spec.name in lately and not by_model[spec.name],
        )
        for spec in sorted(specs, key=lambda spec: spec.name)
    ]
