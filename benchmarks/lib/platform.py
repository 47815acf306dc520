"""Starts a platform for benchmarks and tests: Redis, RabbitMQ, and the API and workers as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import httpx
import psutil

from benchmarks.lib.cores import isolate, several
from benchmarks.report import ROOT
from cli.services import process
from cli.services.process import ServiceError
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer

READY_S: Final = 720.0
"""A worker may load its model for ten minutes."""
END_S: Final = 30.0
EMBEDDED: Final = str(ROOT / "models" / "emoji-turbo")
"""The model of a platform whose settings name no other."""
FAKE: Final = {"DARKROOM_ENGINE": "fake", "DARKROOM_MODEL": "fake"}
"""Settings of workers whose engine takes no time."""
QUIET: Final = {"DARKROOM_LOG_LEVEL": "warning"}
DEEP: Final = {"DARKROOM_JOB_TTL_S": "100000000", "DARKROOM_QUEUE_MAX_LENGTH": "1000000"}
"""Settings of a platform that keeps whatever is submitted for as long as it must wait."""

Service = TypeVar("Service", RedisServer, RabbitServer)


@contextmanager
def served(server: Service) -> Iterator[Service]:
    """Starts a Redis or a RabbitMQ, and stops it at the end, also if it was halted."""
    try:
        server.start()
        yield server
    finally:
        server.send(signal.SIGCONT)
        server.stop()


@dataclass
class Platform:
    """An API at `url`, workers and their servers. `http` asks the API, with the admin key if there is one.

    `broker` is None if the Redis is the broker too. `environ` is the environment of every process.
    """

    url: str
    http: httpx.Client
    environ: dict[str, str]
    folder: Path
    redis: RedisServer
    broker: RabbitServer | None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    python: str = sys.executable

    @classmethod
    def made(
        cls,
        folder: Path,
        redis: RedisServer,
        broker: RabbitServer | None,
        environ: Mapping[str, str],
        inherited: Mapping[str, str] = os.environ,
    ) -> Self:
        """A platform of which nothing runs yet. Settings in `environ` go before those in `inherited`."""
        port = process.free_port()
        given = {
            "DARKROOM_MODEL": EMBEDDED,
            **inherited,
            "PYTHONPATH": str(ROOT),
            "DARKROOM_PORT": str(port),
            "DARKROOM_REDIS_URL": redis.url,
            "DARKROOM_BROKER_URL": broker.url if broker else redis.url.replace("/0", "/1"),
            "DARKROOM_BLOB_DIR": str(folder / "blobs"),
            **environ,
        }
        key = environ.get("DARKROOM_ADMIN_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        url = f"http://127.0.0.1:{port}"
        return cls(
            url, httpx.Client(base_url=url, timeout=90.0, headers=headers), given, folder, redis, broker
        )

    @classmethod
    @contextmanager
    def open(
        cls,
        environ: Mapping[str, str] = QUIET,
        folder: Path | None = None,
        redis: RedisServer | None = None,
        broker: RabbitServer | bool = True,
        workers: int = 1,
        *,
        api: str = "api",
        worker: str = "worker",
        webhooks: bool = False,
    ) -> Iterator[Self]:
        """Starts a platform with the settings `environ`, waits until `workers` workers are ready, and ends it.

        `folder`: None for a temporary one. `redis`: None for one of its own. `broker`: True for a RabbitMQ
        of its own, False for the Redis. `api` and `worker`: the modules that are run, with their arguments.
        Raises `ServiceError` if a server is missing or a process is not ready in `READY_S` seconds.
        """
        with ExitStack() as stack:
            if folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            if redis is None:
                redis = stack.enter_context(served(RedisServer(folder / "redis")))
            if broker is True:
                broker = stack.enter_context(served(RabbitServer(folder / "rabbitmq")))
            platform = cls.made(folder, redis, broker or None, environ)
            stack.callback(platform.http.close)
            stack.callback(platform.end)
            platform.start(api, "api")
            for number in range(1, workers + 1):
                platform.start(worker, f"worker-{number}")
            if webhooks:
                platform.start("webhooks", "webhooks")
            platform.wait_ready(workers, all_live=True)
            yield platform

    def start(self, module: str, name: str, **environ: str) -> None:
        """Starts `python -m module` as process `name`, with its log in the folder of that name."""
        command = [self.python, "-m", *module.split()]
        self.processes[name] = process.launch(command, self.folder / name, {**self.environ, **environ})

    def end(self, *names: str) -> None:
        """Ends these processes, or all: the last one that was started first, so that workers hand over their jobs."""
        for name in reversed(names or tuple(self.processes)):
            process.end(self.processes.pop(name), END_S)

    def wait_ready(self, workers: int, model: str | None = None, *, all_live: bool = False) -> None:
        """Waits until the API takes jobs and so many workers are announced, of all models or of one.

        Raises `ServiceError` with the logs after `READY_S` seconds; with `all_live` as soon as any process has ended.
        """
        until = time.monotonic() + READY_S
        while True:
            with suppress(httpx.TransportError):
                models = self.http.get("/v1/models").json().get("data", [])
                live = sum(each["live_workers"] for each in models if model in (None, each["id"]))
                if live >= workers and self.http.get("/readyz").status_code == 200:
                    return
            ended = [name for name, each in self.processes.items() if each.poll() is not None]
            if time.monotonic() > until or (all_live and ended):
                reason = f"ended: {', '.join(ended)}" if ended else f"not ready within {READY_S:g} s"
                raise ServiceError(f"{reason}\n{self.logs()}")
            time.sleep(0.1)

    def process(self, name: str) -> psutil.Process:
        """The running process `name`."""
        return psutil.Process(self.processes[name].pid)

    def engine(self, name: str = "worker-1") -> psutil.Process:
        """The process that draws for the worker `name`. Raises `ValueError` if there is not exactly one."""
        below = self.process(name).children(recursive=True)
        (engine,) = [each for each in below if any("engine" in word for word in each.cmdline())]
        return engine

    def key(self, tenant: str, **limits: Any) -> str:
        """A new API key of a tenant. The platform must have an admin key."""
        answer = self.http.post("/v1/keys", json={"tenant": tenant, **limits})
        return str(answer.raise_for_status().json()["key"])

    def logs(self) -> str:
        """The end of each process's log."""
        tails = [
            (path.parent.name, path.read_text(errors="replace")[-3000:])
            for path in sorted(self.folder.glob("*/output.log"))
        ]
        return "\n".join(f"--- {name}\n{tail}" for name, tail in tails)


@contextmanager
def alone(environ: Mapping[str, str] = QUIET, workers: int = 1, *, broker: bool = True) -> Iterator[Platform]:
    """`Platform.open`, as it is loaded by `benchmarks.load`: with webhooks to this machine, and the engine of a single worker on
    a core of its own if there is another. Then the load does not slow the engine."""
    settings = {"DARKROOM_WEBHOOK_ALLOW_NETWORKS": "127.0.0.1/32", **QUIET, **environ}
    with Platform.open(settings, broker=broker, workers=workers, webhooks=True) as platform:
        if several() and workers == 1:
            isolate([platform.engine()])
        yield platform
