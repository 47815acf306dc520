"""What tells a worker that works from one that only exists, and the memory limit of its engine."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from cli.services.redis import RedisServer
from contracts.engine import BatchKey, ImageTask
from contracts.settings import WorkerSettings
from contracts.transitions import Granted
from runtime.clock import ManualClock
from tests.store.made import new
from tests.worker.receipts import receipt_of
from worker.batcher import Batcher
from worker.deliveries import Verdict
from worker.engine.host import EngineHost
from worker.engine.memory_watchdog import OUTGROWN
from worker.images import ScheduleKey
from worker.runtime import Runtime

ROOT = Path(__file__).parents[2]


@pytest.mark.anyio
async def test_a_batcher_stalls_only_while_images_wait(anyio_backend: str) -> None:
    settings, clock = WorkerSettings(engine="fake"), ManualClock()
    batcher = Batcher(EngineHost(settings), settings.max_batch, clock)
    clock.advance(1000)
    assert batcher.stalled_s() == 0.0
    drawn = batcher.add(
        BatchKey("m", 64, 64, False), ImageTask("a", "", 1), ScheduleKey(0.0, clock.now() + 9999)
    )
    assert batcher.stalled_s() == 0.0
    clock.advance(50)
    assert batcher.stalled_s() == 50.0
    batcher.drain()
    assert drawn.cancelled()


@pytest.mark.slow
def test_an_engine_that_outgrows_its_memory_ends_itself() -> None:
    program = (
        "import time; from worker.engine.memory_watchdog import watch; watch(300 * 2**20, 0.05);"
        "time.sleep(0.5); print('within', flush=True); hoard = bytearray(b'x') * (400 * 2**20); time.sleep(20)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith("within\n")
    assert done.returncode == OUTGROWN


@pytest.mark.slow
def test_a_worker_of_which_nobody_would_hear_any_more_ends(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    url = redis_server.url
    runtime = Runtime(
        WorkerSettings(engine="fake", model="fake", redis_url=url, broker_url=url, blob_dir=tmp_path)
    )

    async def fails(*_: Any) -> None:
        raise RuntimeError

    try:
        runtime.start()
        monkeypatch.setattr(runtime._started().stores.models, "announce", fails)
        runtime.announce()
        assert told.wait(30)
        assert "failed for good" in str(runtime.unready())
    finally:
        runtime.stop()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_a_worker_whose_service_ends_with_an_error_fails_and_gives_back(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    url = redis_server.url
    runtime = Runtime(
        WorkerSettings(engine="fake", model="fake", redis_url=url, broker_url=url, blob_dir=tmp_path)
    )

    async def breaks() -> bool:
        raise RuntimeError

    try:
        runtime.start()
        jobs, job = runtime._started().stores.jobs, new(model="fake")
        submitted = runtime._call(jobs.submit(job)).result(30)
        message = submitted.job.message()
        assert isinstance(runtime._call(jobs.claim(message, "another")).result(30), Granted)
        held = runtime.run(receipt_of(message))
        assert isinstance(held, Future)
        # As a task of the service: it takes the others along.
        runtime._loop.call_soon_threadsafe(lambda: runtime._started().fetcher._begin(breaks()))
        assert told.wait(30)
        assert runtime.failed
        assert "failed for good" in str(runtime.unready())
        assert held.result(30) is Verdict.REQUEUE
        late = runtime.run(receipt_of(message))
        assert isinstance(late, Future)
        assert late.result(30) is Verdict.REQUEUE, "one that comes before the consumer ends"
    finally:
        runtime.stop()
        signal.signal(signal.SIGTERM, before)
