"""An engine whose process is ended while it loads: told apart from a model that cannot be loaded, tried again, counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest
from prometheus_client import REGISTRY

from cli.services.redis import RedisServer
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from worker import service
from worker.engine.host import EngineDied, EngineHost, EngineLoadError
from worker.runtime import Runtime

pytestmark = pytest.mark.slow
WAIT_S = 60.0


def failures(cause: str) -> float:
    found = REGISTRY.get_sample_value(
        "darkroom_engine_load_failures_total", {"model": "fake", "cause": cause}
    )
    return found or 0.0


def in_thread(work: Callable[[], ModelSpec]) -> Future[ModelSpec]:
    future: Future[ModelSpec] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 - it is the answer
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def engines() -> set[int]:
    """Engine processes of this one, of those that can be asked."""
    found = set()
    for child in psutil.Process().children():
        try:
            if "worker.engine" in child.cmdline():
                found.add(child.pid)
        except psutil.Error:
            continue
    return found


def kill_next(loading: Future[ModelSpec], seen: set[int]) -> None:
    """Kills an engine that has not been `seen`, as soon as it is there: long before it can have loaded anything."""
    until = time.monotonic() + WAIT_S
    while not (fresh := engines() - seen):
        assert not loading.done(), loading.exception()
        assert time.monotonic() < until
        time.sleep(0.001)
    seen |= fresh
    for pid in fresh:
        psutil.Process(pid).kill()


def test_a_process_that_was_killed_is_no_model_that_cannot_be_loaded() -> None:
    host = EngineHost(WorkerSettings(engine="fake", model="fake"))
    before, seen = failures("died"), engines()
    loading = in_thread(host.start)
    kill_next(loading, seen)
    with pytest.raises(EngineDied, match="SIGKILL"):
        loading.result(WAIT_S)
    assert failures("died") == before + 1
    assert host.pid is None


def test_a_model_that_takes_too_long_is_told_so() -> None:
    host = EngineHost(WorkerSettings(engine="fake", model="fake", load_timeout_s=0.01))
    before = failures("timeout")
    with pytest.raises(EngineLoadError, match=r"within 0\.01 s\.") as raised:
        host.start()
    assert not isinstance(raised.value, EngineDied)
    assert failures("timeout") == before + 1


@pytest.fixture
def worker(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    monkeypatch.setattr(service, "LOAD_AGAIN_S", (0.0, 0.0))
    one = Runtime(
        WorkerSettings(
            engine="fake",
            model="fake",
            redis_url=redis_server.url.replace("/0", "/9"),
            broker_url=redis_server.url.replace("/0", "/10"),
            blob_dir=tmp_path,
        )
    )
    yield one
    one.stop()


def test_a_worker_whose_engine_is_killed_while_it_loads_starts_another(worker: Runtime) -> None:
    before, seen = failures("died"), engines()
    loading = in_thread(worker.start)
    kill_next(loading, seen)
    kill_next(loading, seen)
    assert loading.result(WAIT_S).name == "fake"
    assert failures("died") == before + 2
    assert worker.unready() is None


def test_a_worker_gives_up_at_the_third(worker: Runtime) -> None:
    seen = engines()
    loading = in_thread(worker.start)
    for _ in range(3):
        kill_next(loading, seen)
    with pytest.raises(EngineDied, match="while it loaded its model"):
        loading.result(WAIT_S)
