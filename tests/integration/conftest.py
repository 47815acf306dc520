"""The real thing: RabbitMQ or Redis as broker, Redis as state, API and workers as processes of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks.lib.platform import FAKE, Platform, served
from cli.services.redis import RedisServer

ROOT: Final = Path(__file__).parents[2]
READY_S: Final = 90.0


class Stack(Platform):
    """A running deployment and its fault handles."""

    def submit(self, **body: Any) -> dict[str, Any]:
        response = self.http.post("/v1/jobs", json=body)
        assert response.status_code in (200, 202), response.text
        job: dict[str, Any] = response.json()
        return job

    def ended(self, job: dict[str, Any], timeout_s: float = 60.0) -> dict[str, Any]:
        until = time.monotonic() + timeout_s
        while job["status"] in ("queued", "running"):
            assert time.monotonic() < until, (job, self.logs())
            job = self.http.get(job["urls"]["self"], headers={"Prefer": "wait=10"}).json()
        return job

    def wait_running(self, count: int = 1) -> None:
        """Until so many jobs run: of those that were just submitted none may have been taken yet."""
        until = time.monotonic() + READY_S
        while True:
            listed = self.http.get("/v1/jobs", params={"limit": 100}).json()["data"]
            running = sum(job["status"] == "running" for job in listed)
            if running >= count:
                return
            assert any(job["status"] == "queued" for job in listed), (
                f"{running} ran at once, and all has ended"
            )
            assert time.monotonic() < until, self.logs()
            time.sleep(0.02)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """The signal to the one process, not to its children."""
        os.kill(self.processes[name].pid, number)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for each module: the models that one announces are no business of the next."""
    with served(RedisServer(tmp_path_factory.mktemp("redis"))) as server:
        yield server


Deploy = Callable[..., Stack]


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Deploy]:
    """Starts deployments with a Redis of their own; `rabbitmq=True` for a RabbitMQ of their own."""
    with ExitStack() as stack:
        count = iter(range(100))

        def start(*, workers: int = 1, rabbitmq: bool = True, fake: bool = True, **environ: str) -> Stack:
            folder = tmp_path / str(next(count))
            environ = {**FAKE, **environ} if fake else environ
            return stack.enter_context(Stack.open(environ, folder, broker=rabbitmq, workers=workers))

        yield start
