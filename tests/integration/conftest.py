"""The real thing: RabbitMQ or Redis as broker, Redis as state, API and workers as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cli.services import process
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer

ROOT = Path(__file__).parents[2]
READY_S = 90.0


@dataclass
class Stack:
    """A running deployment and its fault handles."""

    url: str
    http: httpx.Client
    environ: dict[str, str]
    folder: Path
    redis: RedisServer
    broker: RabbitServer | None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, module: str, name: str, **environ: str) -> None:
        self.processes[name] = process.launch(
            [sys.executable, "-m", module], self.folder / name, {**self.environ, **environ}
        )

    def wait_ready(self, workers: int, model: str | None = None) -> None:
        """Until that many workers are announced and the API takes jobs."""
        until = time.monotonic() + READY_S
        while True:
            try:
                models = self.http.get("/v1/models").json().get("data", [])
                live = sum(m["live_workers"] for m in models if model in (None, m["id"]))
                if live >= workers and self.http.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < until, self.logs()
            time.sleep(0.1)

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

    def engine(self, name: str) -> psutil.Process:
        (child,) = psutil.Process(self.processes[name].pid).children()
        return child

    def logs(self) -> str:
        tails = [
            (path.parent.name, path.read_text(errors="replace")[-3000:])
            for path in self.folder.glob("*/output.log")
        ]
        return "\n".join(f"--- {name}\n{tail}" for name, tail in tails)


@contextmanager
def deployed(
    folder: Path, redis: RedisServer, broker: RabbitServer | None, workers: int, **environ: str
) -> Iterator[Stack]:
    """A deployment with that many workers, ended on leaving. With an admin key in `environ` it is that key that `http` sends."""
    port = process.free_port()
    url = f"http://127.0.0.1:{port}"
    given = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DARKROOM_PORT": str(port),
        "DARKROOM_REDIS_URL": redis.url,
        "DARKROOM_BROKER_URL": broker.url if broker else redis.url.replace("/0", "/1"),
        "DARKROOM_BLOB_DIR": str(folder / "blobs"),
        "DARKROOM_MODEL": str(ROOT / "models" / "emoji-turbo"),
        **environ,
    }
    admin_key = environ.get("DARKROOM_ADMIN_KEY")
    headers = {"Authorization": f"Bearer {admin_key}"} if admin_key else {}
    with httpx.Client(base_url=url, timeout=90.0, headers=headers) as http:
        stack = Stack(url, http, given, folder, redis, broker)
        try:
            stack.start("api", "api")
            for number in range(1, workers + 1):
                stack.start("worker", f"worker-{number}")
            stack.wait_ready(workers)
            yield stack
        finally:
            for running in reversed(stack.processes.values()):
                process.end(running, timeout_s=20.0)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for each module: the models that one announces are no business of the next."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


Deploy = Callable[..., Stack]


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Deploy]:
    """Starts deployments with a Redis of their own; `rabbitmq=True` for a RabbitMQ of their own."""
    with ExitStack() as stack:
        count = iter(range(100))

        def start(*, workers: int = 1, rabbitmq: bool = True, fake: bool = True, **environ: str) -> Stack:
            folder = tmp_path / str(next(count))
            redis = RedisServer(folder / "redis")
            redis.start()
            stack.callback(redis.stop)
            stack.callback(redis.send, signal.SIGCONT)
            broker = None
            if rabbitmq:
                broker = RabbitServer(folder / "rabbitmq")
                broker.start()
                stack.callback(broker.stop)
                stack.callback(broker.send, signal.SIGCONT)
            if fake:
                environ = {"DARKROOM_ENGINE": "fake", "DARKROOM_MODEL": "fake", **environ}
            return stack.enter_context(deployed(folder, redis, broker, workers, **environ))

        yield start
