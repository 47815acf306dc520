"""`darkroom migrate` against a real server, and what every process says where it is needed. `tests/store/test_migrating.py` holds
what it moves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner, Result

from cli.main import app
from cli.platform import started
from cli.services.redis import RedisServer
from contracts import exit_codes
from contracts.jobs import JobStatus
from contracts.models import WorkerInfo
from contracts.settings import BackendSettings, WorkerSettings
from store.layout import LAYOUT_KEY
from store.stores import open_stores
from tests.store.made import keys, led, new, result
from worker.engine.fake import FakeEngine

pytestmark = pytest.mark.slow
Command = Callable[..., Result]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    """A database of the Redis of this run, empty."""
    found = redis_server.url.replace("/0", "/8")
    with redis.Redis.from_url(found) as client:
        client.flushdb()
    return found


@pytest.fixture
def darkroom(monkeypatch: pytest.MonkeyPatch, url: str) -> Command:
    monkeypatch.setenv("DARKROOM_REDIS_URL", url)

    def run(*arguments: str | Path, **environ: str) -> Result:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def jobs_in(url: str, shards: int | None) -> list[str]:
    """Jobs that have succeeded, and as many that wait. Answers the ids of these."""

    async def fill() -> list[str]:
        stores = open_stores(BackendSettings(redis_url=url, store_shards=shards))
        for key in keys(16):
            await stores.jobs.succeed(await led(stores.jobs, new(key)), result())
        waiting = [new(key) for key in keys(16)]
        for job in waiting:
            await stores.jobs.submit(job)
        await stores.close()
        return [job.id for job in waiting]

    return asyncio.run(fill())


def statuses(url: str, shards: int | None, job_ids: list[str]) -> list[JobStatus | None]:
    async def read() -> list[JobStatus | None]:
        stores = open_stores(BackendSettings(redis_url=url, store_shards=shards))
        found = await stores.jobs.statuses(job_ids)
        await stores.close()
        return list(found)

    return asyncio.run(read())


def test_jobs_move_to_the_layout_of_the_settings(darkroom: Command, url: str) -> None:
    waiting = jobs_in(url, 16)
    assert "DARKROOM_STORE_SHARDS is 1" in darkroom("doctor").output
    done = darkroom("migrate")
    assert done.exit_code == 0, done.output
    assert "32 jobs recorded, 16 of them live: moved from 16 to 1 shards" in done.output
    assert statuses(url, None, waiting) == [JobStatus.QUEUED] * 16
    assert darkroom("audit", "--full").exit_code == 0
    again = darkroom("migrate")
    assert again.exit_code == 0
    assert "nothing to move" in again.output


def test_it_waits_for_all_processes_to_end(darkroom: Command, url: str) -> None:
    waiting = jobs_in(url, 16)
    with redis.Redis.from_url(url) as client:
        client.set("darkroom:{house}:keeper", "an API", px=600_000)
        refused = darkroom("migrate")
        assert refused.exit_code == 1
        assert "A platform runs on this Redis" in refused.output
        client.delete("darkroom:{house}:keeper")

    async def announce() -> None:
        stores = open_stores(BackendSettings(redis_url=url, store_shards=16, worker_ttl_s=600))
        spec = FakeEngine(WorkerSettings(model="fake"), "fake").load()
        await stores.models.announce(spec, WorkerInfo(id="w", model=spec.name, started_at=1.0))
        await stores.close()

    asyncio.run(announce())
    assert "A platform runs on this Redis" in darkroom("migrate").output
    assert statuses(url, 16, waiting) == [JobStatus.QUEUED] * 16
    assert darkroom("migrate", "--force").exit_code == 0
    assert statuses(url, None, waiting) == [JobStatus.QUEUED] * 16


@pytest.mark.parametrize("module", ["api", "worker", "webhooks"])
def test_a_process_stops_at_another_layout(url: str, module: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set(LAYOUT_KEY, '{"schema":1,"shards":16}')
    environ = {**os.environ, "DARKROOM_REDIS_URL": url, "DARKROOM_ENGINE": "fake", "DARKROOM_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == exit_codes.UNUSABLE
    assert done.stderr.splitlines()[-1] == (
        f"darkroom {module}: DARKROOM_STORE_SHARDS is 1, and the state Redis keeps its jobs in 16: stop all processes and run"
        " `darkroom migrate` to move them, or set DARKROOM_STORE_SHARDS to 16."
    )


def test_the_embedded_platform_moves_its_own_jobs(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    server.start()
    waiting = jobs_in(server.url, 16)
    server.stop()
    environ = {"PATH": os.environ["PATH"], "DARKROOM_ENGINE": "fake", "DARKROOM_PORT": "0"}
    with started(tmp_path, 0, environ, webhooks=False) as platform:
        assert platform.redis is not None
        found = statuses(platform.redis.url, None, waiting)
    assert found == [JobStatus.QUEUED] * 16
