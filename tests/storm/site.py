"""The embedded platform with both embedded models, and one who watches its processes: which end, what memory and descriptors they take."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import httpx
import psutil
import redis

from cli.children import Child
from cli.platform import Platform, started
from cli.services import process
from cli.services.process import ServiceError
from tests.faults.history import Counts
from tests.faults.site import counts_of

ROOT: Final = Path(__file__).parents[2]
MODELS: Final = ("emoji-turbo", "emoji-base")
READY_S: Final = 120.0
LOOK_S: Final = 0.5
SAMPLE_S: Final = 2.0
MB: Final = 1e6


@contextmanager
def standing(folder: Path) -> Iterator[Platform]:
    """API, webhooks, a Redis, and a worker for each of `MODELS`; ended on leaving. Raises `TimeoutError`."""
    first, second = (str(ROOT / "models" / name) for name in MODELS)
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")},
        "DARKROOM_PORT": str(process.free_port()),
        "DARKROOM_MODEL": first,
        "DARKROOM_LOG_LEVEL": "warning",
    }
    with started(folder, 1, environ) as platform:
        worker = platform.children[1]
        other = Child(
            "worker-2",
            worker.module,
            worker.folder.with_name("worker-2"),
            {**worker.environ, "DARKROOM_MODEL": second},
        )
        platform.children.append(other)
        other.start()
        _wait_ready(platform)
        yield platform


def _wait_ready(platform: Platform) -> None:
    until = time.monotonic() + READY_S
    with httpx.Client(base_url=platform.url, timeout=5.0, verify=False) as http:
        while True:
            with suppress(httpx.TransportError, KeyError):
                live = {each["id"] for each in http.get("/v1/models").json()["data"] if each["live_workers"]}
                if live >= set(MODELS) and http.get("/readyz").status_code == 200:
                    return
            if time.monotonic() > until:
                raise TimeoutError(f"not ready within {READY_S:g} s; see {platform.folder}")
            time.sleep(0.1)


def counts(platform: Platform) -> Counts:
    """The counters of the platform's own store."""
    assert platform.redis is not None
    with redis.Redis(port=platform.redis.port, decode_responses=True, socket_timeout=10) as client:
        return counts_of(client)


@dataclass(slots=True)
class Use:
    """Resident memory in MB and open descriptors of one process: at first, at most, at last."""

    rss_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def row(self) -> tuple[str, str]:
        memory, files = self.rss_mb, self.descriptors
        return f"{memory[0]:.0f} {max(memory):.0f} {memory[-1]:.0f}", f"{files[0]} {max(files)} {files[-1]}"


class Watch:
    """A thread that looks at the processes, as a context. What ends is noted in `deaths` and started again, so that the storm
    goes on."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._engines: dict[str, int] = {}
        self._buried: set[int] = set()
        self.deaths: list[str] = []
        self.uses: dict[str, Use] = {}
        self.given_up = threading.Event()
        """Something ends again and again: there is nothing left to ask."""

    def __enter__(self) -> Self:
        self._look()
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()
        self._sample()

    def _run(self) -> None:
        sampled = time.monotonic()
        while not self._ended.wait(LOOK_S):
            self._look()
            if time.monotonic() - sampled >= SAMPLE_S:
                sampled = time.monotonic()
                self._sample()

    def _look(self) -> None:
        for child in self._platform.children:
            dead = child.process
            if dead is not None and (code := dead.poll()) is not None and dead.pid not in self._buried:
                self._buried.add(dead.pid)
                self.deaths.append(f"{child.name} ended with {code}")
        if self._platform.redis is not None and not self._platform.redis.alive():
            self.deaths.append("redis ended")
        for name, engine in self._processes():
            if name.startswith("engine") and self._engines.setdefault(name, engine.pid) != engine.pid:
                self.deaths.append(f"{name} was replaced")
                self._engines[name] = engine.pid
        if not self._ended.is_set():
            try:
                self._platform.check()
            except ServiceError as error:
                self.deaths.append(str(error).partition("\n")[0])
                self.given_up.set()
                self._ended.set()

    def _processes(self) -> list[tuple[str, psutil.Process]]:
        found: list[tuple[str, psutil.Process]] = []
        for child in self._platform.children:
            with suppress(psutil.NoSuchProcess):
                if child.process is not None and child.process.poll() is None:
                    running = psutil.Process(child.process.pid)
                    found.append((child.name, running))
                    if child.module == "worker":
                        engine = child.name.replace("worker", "engine")
                        found += [(engine, below) for below in running.children()]
        return found

    def _sample(self) -> None:
        for name, running in self._processes():
            with suppress(psutil.NoSuchProcess):
                use = self.uses.setdefault(name, Use())
                rss, files = running.memory_info().rss / MB, running.num_fds()
                use.rss_mb.append(rss)
                use.descriptors.append(files)
