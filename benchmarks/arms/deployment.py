"""One arm of a comparison: a revision's API and worker, with a Redis and a RabbitMQ of their own."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from benchmarks.arms.checkout import Tree
from benchmarks.arms.proxy import Proxies
from benchmarks.lib.asking import fresh
from benchmarks.lib.platform import DEEP, QUIET, Platform
from cli.services import process
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer

MAX_BATCH: Final = 8
FAKE: Final = "fake"
SLOW: Final = "slow"
EMBEDDED: Final = "emoji-turbo"


def picture(model: str, *prompt: str) -> dict[str, Any]:
    """A request that nobody has made before."""
    return fresh(*prompt, model=model)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's own process, and the one that draws for it; `metrics_port` answers /metrics."""

    process: psutil.Process
    engine: psutil.Process
    metrics_port: int

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
        self.services: dict[str, list[psutil.Process]] = {}
        self.redis = RedisServer(folder / "redis")
        self.rabbit = RabbitServer(folder / "rabbitmq")
        clean = {each: value for each, value in os.environ.items() if not each.startswith("DARKROOM_")}
        settings = {"PYTHONPATH": str(tree.folder), "DARKROOM_MAX_BATCH": str(MAX_BATCH), **QUIET, **DEEP}
        self.platform = Platform.made(folder, self.redis, self.rabbit, settings, clean)
        self.platform.python = str(tree.python)
        self._metrics_port = 0

    def start(self) -> None:
        for name, service in (("redis", self.redis), ("rabbitmq", self.rabbit)):
            before = {each.pid for each in psutil.Process().children()}
            service.start()
            self.services[name] = [each for each in psutil.Process().children() if each.pid not in before]

    def stop(self) -> None:
        self.redis.stop()
        self.rabbit.stop()
        self.platform.http.close()

    @property
    def port(self) -> int:
        return int(self.platform.environ["DARKROOM_PORT"])

    @property
    def api(self) -> psutil.Process:
        return self.platform.process("api")

    @property
    def worker(self) -> Worker:
        return Worker(self.platform.process("worker"), self.platform.engine("worker"), self._metrics_port)

    def launch(self, model: str | None, proxies: Proxies | None) -> None:
        """The API, or a worker for `model`; behind `proxies` where some are given."""
        settings = {}
        if model:
            embedded = model == EMBEDDED
            self._metrics_port = process.free_port()
            settings = {
                "DARKROOM_ENGINE": "diffusers" if embedded else "fake",
                "DARKROOM_MODEL": str(self.tree.folder / "models" / EMBEDDED) if embedded else model,
                "DARKROOM_MODEL_NAME": model,
                "DARKROOM_METRICS_PORT": str(self._metrics_port),
            }
        name = "worker" if model else "api"
        if proxies is not None:
            port = proxies.amqp(self.rabbit.port, name)
            settings["DARKROOM_REDIS_URL"] = f"redis://127.0.0.1:{proxies.redis(self.redis.port, name)}/0"
            settings["DARKROOM_BROKER_URL"] = f"amqp://guest:guest@127.0.0.1:{port}//"
        self.platform.start(name, name, **settings)


@contextmanager
def serving(
    arms: Sequence[Arm], model: str | None = None, proxies: Sequence[Proxies] | None = None
) -> Iterator[None]:
    """Every arm's API, or its worker for `model`, once all are ready; each behind its own of `proxies` where some are given. Ended on
    leaving."""
    launched: list[Arm] = []
    try:
        for arm, between in zip(arms, proxies or itertools.repeat(None), strict=proxies is not None):
            arm.launch(model, between)
            launched.append(arm)
        for arm in arms:
            arm.platform.wait_ready(1 if model else 0, model, all_live=True)
        yield
    finally:
        for arm in launched:
            arm.platform.end("worker" if model else "api")


def body_of(answer: httpx.Response) -> dict[str, Any]:
    """The job of an answer. Raises `RuntimeError` for one that is none."""
    job = json.loads(answer.content)
    if "status" not in job:
        raise RuntimeError(answer.text)
    return dict(job)
