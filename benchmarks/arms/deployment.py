"""One arm of a comparison: a revision's API and worker, with a Redis and a RabbitMQ of their own."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from benchmarks.arms.checkout import Tree
from benchmarks.arms.proxy import Proxies
from cli.services import process
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer

READY_S: Final = 180.0
END_S: Final = 30.0
MAX_BATCH: Final = 8
FAKE: Final = "fake"
SLOW: Final = "slow"
EMBEDDED: Final = "emoji-turbo"
_SETTINGS: Final = {
    "DARKROOM_LOG_LEVEL": "warning",
    "DARKROOM_MAX_BATCH": str(MAX_BATCH),
    # Whatever is submitted waits as long as it must, and is kept.
    "DARKROOM_JOB_TTL_S": "100000000",
    "DARKROOM_QUEUE_MAX_LENGTH": "1000000",
}
_seeds = itertools.count(int(time.time()) % 1_000_000 * 1_000)


def picture(model: str, prompt: str = "a red apple on a blue background") -> dict[str, Any]:
    """A request that nobody has made before."""
    return {"model": model, "prompt": prompt, "seed": next(_seeds)}


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's own process; `metrics_port` answers /metrics."""

    process: psutil.Process
    metrics_port: int

    @property
    def engine(self) -> psutil.Process:
        """The process below it that draws. Raises `SystemExit` where it is not told by its command line."""
        below = self.process.children(recursive=True)
        found = [each for each in below if any("engine" in word for word in each.cmdline())]
        if len(found) != 1:
            raise SystemExit(f"A worker has {len(found)} processes that look like its engine, not 1.")
        return found[0]

    def metrics(self) -> dict[str, float]:
        """Every series without labels but the model's, by name; of several with one name, their sum."""
        found: dict[str, float] = {}
        for line in httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics").text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found


class Arm:
    """Services that live as long as the arm, and an API and workers that come and go. Use `start` and `stop`."""

    def __init__(self, name: str, tree: Tree, folder: Path) -> None:
        self.name = name
        self.tree = tree
        self.port = 0
        self.api: psutil.Process
        self.worker: Worker
        self.services: dict[str, list[psutil.Process]] = {}
        self.redis = RedisServer(folder / "redis")
        self.rabbit = RabbitServer(folder / "rabbitmq")
        self._folder = folder
        self._number = itertools.count(1)

    def start(self) -> None:
        for name, service in (("redis", self.redis), ("rabbitmq", self.rabbit)):
            before = {each.pid for each in psutil.Process().children()}
            service.start()
            self.services[name] = [each for each in psutil.Process().children() if each.pid not in before]

    def stop(self) -> None:
        self.redis.stop()
        self.rabbit.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def launch_api(self, proxies: Proxies | None) -> Running:
        self.port = process.free_port()
        running = self._launch("api", {"DARKROOM_PORT": str(self.port)}, proxies)
        self.api = psutil.Process(running.process.pid)
        return running

    def launch_worker(self, model: str, proxies: Proxies | None) -> Running:
        embedded = model == EMBEDDED
        metrics_port = process.free_port()
        own = {
            "DARKROOM_ENGINE": "diffusers" if embedded else "fake",
            "DARKROOM_MODEL": str(self.tree.folder / "models" / EMBEDDED) if embedded else model,
            "DARKROOM_MODEL_NAME": model,
            "DARKROOM_METRICS_PORT": str(metrics_port),
        }
        running = self._launch("worker", own, proxies)
        self.worker = Worker(psutil.Process(running.process.pid), metrics_port)
        return running

    def answers(self) -> bool:
        return httpx.get(f"{self.url}/readyz").status_code == 200

    def serves(self, model: str) -> bool:
        listed = httpx.get(f"{self.url}/v1/models").json()["data"]
        return any(each["id"] == model and each["live_workers"] for each in listed)

    def _launch(self, module: str, own: Mapping[str, str], proxies: Proxies | None) -> Running:
        redis_port, broker_port = self.redis.port, self.rabbit.port
        if proxies is not None:
            redis_port = proxies.redis(redis_port, module)
            broker_port = proxies.amqp(broker_port, module)
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")},
            **_SETTINGS,
            **own,
            "PYTHONPATH": str(self.tree.folder),
            "DARKROOM_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            "DARKROOM_BROKER_URL": f"amqp://guest:guest@127.0.0.1:{broker_port}//",
            "DARKROOM_BLOB_DIR": str(self._folder / "blobs"),
        }
        home = self._folder / f"{next(self._number)}-{module}"
        return Running(
            process.launch([str(self.tree.python), "-m", module], home, environ), home / "output.log"
        )


@dataclass(frozen=True, slots=True)
class Running:
    """A process of an arm, and what it writes."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait(self, ready: Callable[[], bool]) -> None:
        """Raises `SystemExit` with the log where it ends, or is not ready in time."""
        until = time.monotonic() + READY_S
        while True:
            with suppress(httpx.TransportError, KeyError, ValueError):
                if ready():
                    return
            if time.monotonic() > until or self.process.poll() is not None:
                raise SystemExit(f"{self.log} ends with:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)


@contextmanager
def serving(
    arms: Sequence[Arm], model: str | None = None, proxies: Sequence[Proxies] | None = None
) -> Iterator[None]:
    """Every arm's API, or its worker for `model`, once all are ready; each behind its own of `proxies` where some are given. Ended on
    leaving."""
    running: list[Running] = []
    try:
        for arm, between in zip(arms, proxies or itertools.repeat(None), strict=proxies is not None):
            running.append(arm.launch_worker(model, between) if model else arm.launch_api(between))
        for arm, one in zip(arms, running, strict=True):
            one.wait(partial(arm.serves, model) if model else arm.answers)
        yield
    finally:
        for one in running:
            process.signal_group(one.process, signal.SIGTERM)
        for one in running:
            process.end(one.process, END_S)


def body_of(answer: httpx.Response) -> dict[str, Any]:
    """The job of an answer. Raises `RuntimeError` for one that is none."""
    job = json.loads(answer.content)
    if "status" not in job:
        raise RuntimeError(answer.text)
    return dict(job)
