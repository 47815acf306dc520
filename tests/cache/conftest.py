"""Both implementations of the stores, each with a way to move its clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cache.connection import connect
from cache.jobs import RedisJobStore
from cache.memory import memory_stores
from cache.quotas import RedisQuotaLedger
from cache.stores import Stores, open_stores
from cli.services.redis import RedisServer
from contracts.clock import ManualClock
from contracts.settings import BackendSettings


@dataclass(frozen=True)
class World:
    """Stores under test and their clock; `real` tells whether they are on a server."""

    stores: Stores
    advance: Callable[[float], None]
    settings: BackendSettings
    real: bool


@pytest.fixture(params=["redis", "memory"])
async def world(
    request: pytest.FixtureRequest, anyio_backend: str, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[World]:
    settings = BackendSettings(redis_url=redis_server.url, blob_dir=tmp_path / "blobs", job_retention_s=1000)
    if request.param == "memory":
        clock = ManualClock()
        yield World(memory_stores(settings, clock), clock.advance, settings, real=False)
        return
    client = connect(redis_server.url, 2.0)
    await client.flushdb()
    await client.aclose()
    stores = open_stores(settings)
    jobs, quotas = stores.jobs, stores.quotas
    assert isinstance(jobs, RedisJobStore)
    assert isinstance(quotas, RedisQuotaLedger)

    def advance(seconds: float) -> None:
        jobs.skew_s += seconds
        quotas.skew_s += seconds

    yield World(stores, advance, settings, real=True)
    await stores.close()
