"""A deployment of its own under test: RabbitMQ, two roles of Redis, API and workers, and a proxy on every line between them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import psutil
import redis
from amqp.exceptions import NotFound
from kombu import Connection

from broker.topology import queue_name
from cli.services import process
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from contracts.ids import SHARDS
from tests.faults.history import TERMINAL, Counts
from tests.faults.history import Final as Ended
from tests.faults.proxy import Proxy

ROOT: Final = Path(__file__).parents[2]
READY_S: Final = 60.0
SETTLE_S: Final = 5.0
LOOK_S: Final = 1.3
PREFIX: Final = "darkroom:{s%s}:"
SETTINGS: Final = {
    "DARKROOM_ENGINE": "fake",
    "DARKROOM_MODEL": "fake",
    "DARKROOM_LEASE_S": "4",
    "DARKROOM_HEARTBEAT_S": "0.4",
    "DARKROOM_WORKER_TTL_S": "2",
    "DARKROOM_PUBLISH_TIMEOUT_S": "3",
    "DARKROOM_REDIS_TIMEOUT_S": "1",
    "DARKROOM_JOB_TTL_S": "60",
    "DARKROOM_MAX_BATCH": "4",
    "DARKROOM_BATCH_TIMEOUT_S": "10",
    "DARKROOM_DRAIN_TIMEOUT_S": "10",
    "DARKROOM_LOG_LEVEL": "info",
}
"""Short leases and timeouts, so that a round takes seconds."""
SLOTS: Final = 2 * int(SETTINGS["DARKROOM_MAX_BATCH"])
"""Jobs that one worker has in hand at most."""


class Site:
    """Everything of one deployment. `open`, then the processes; `close` ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.state = RedisServer(self.folder / "state")
        self.cache = RedisServer(self.folder / "cache")
        self.rabbit = RabbitServer(self.folder / "rabbitmq")
        self.lines = {
            f"{who}-{what}": Proxy(port)
            for who in ("api", "worker")
            for what, port in (("rabbit", self.rabbit.port), ("state", self.state.port))
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.urls: dict[str, str] = {}
        self.url = self.url_of("api")
        self.paintings = self.folder / "paintings.log"
        self.extra: dict[str, str] = {}
        """Settings of this round, on top of the usual ones."""
        self.mutants: tuple[str, ...] = ()
        """Patches of every process."""

    @property
    def control(self) -> redis.Redis:
        """The state Redis, past all proxies."""
        return redis.Redis(port=self.state.port, decode_responses=True, socket_timeout=10)

    def open(self) -> None:
        """Brokers and proxies."""
        for server in (self.state, self.cache, self.rabbit):
            server.start()
        for line in self.lines.values():
            line.start()

    def close(self) -> None:
        self.end()
        for server in (self.rabbit, self.cache, self.state):
            server.send(signal.SIGCONT)
            server.stop()
        for line in self.lines.values():
            line.stop()

    def url_of(self, name: str) -> str:
        """Where the API `name` listens: each on a port of its own."""
        if name not in self.urls:
            self.urls[name] = f"http://127.0.0.1:{process.free_port()}"
        return self.urls[name]

    def settings(self, name: str) -> dict[str, str]:
        """The environment of an API (`api`, `api-2` ...) or a worker (any other name)."""
        who = "api" if name.startswith("api") else "worker"
        return {
            **os.environ,
            **SETTINGS,
            "PYTHONPATH": str(ROOT),
            "DARKROOM_PORT": self.url_of(name if who == "api" else "api").rpartition(":")[2],
            "DARKROOM_BROKER_URL": f"amqp://guest:guest@127.0.0.1:{self.lines[f'{who}-rabbit'].port}//",
            "DARKROOM_REDIS_URL": f"redis://127.0.0.1:{self.lines[f'{who}-state'].port}/0",
            "DARKROOM_CACHE_REDIS_URL": self.cache.url,
            "DARKROOM_BLOB_DIR": str(self.folder / "blobs"),
            "DARKROOM_FAKE_LOG": str(self.paintings),
            **self.extra,
        }

    def start(self, name: str, *patches: str) -> None:
        """An API (`api`, `api-2` ...) or a worker (any other name), with `patches` of `patched` in it."""
        who = "api" if name.startswith("api") else "worker"
        patches = (*self.mutants, *patches)
        module = ["-m", "tests.faults.patched", who, *patches] if patches else ["-m", who]
        self.processes[name] = process.launch(
            [sys.executable, *module], self.folder / name, self.settings(name)
        )

    def ensure(self, workers: int = 2) -> None:
        """An API and that many workers, unpatched, all running and ready: what died is started again."""
        for name in ["api", *(f"worker-{number}" for number in range(1, workers + 1))]:
            if not self.running(name):
                self.start(name)
        self.ready(workers)

    def ready_at(self, name: str) -> None:
        """Until the API `name` takes jobs. Raises `TimeoutError`."""
        until = time.monotonic() + READY_S
        with httpx.Client(base_url=self.url_of(name), timeout=5.0, verify=False) as http:
            while time.monotonic() < until:
                with suppress(httpx.TransportError):
                    if http.get("/readyz").status_code == 200:
                        return
                time.sleep(0.05)
        raise TimeoutError(f"{name} is not ready within {READY_S:g} s\n{self.logs()}")

    def ready(self, workers: int) -> None:
        """Until the API takes jobs and workers 1 to `workers`, as they run now, are announced. Raises `TimeoutError` with the
        ends of the logs."""
        names = [f"worker-{number}" for number in range(1, workers + 1)]
        until = time.monotonic() + READY_S
        with httpx.Client(base_url=self.url, timeout=5.0, verify=False) as http:
            while True:
                with suppress(httpx.TransportError, KeyError):
                    if (
                        self._announced(names)
                        and any(model["live_workers"] for model in http.get("/v1/models").json()["data"])
                        and http.get("/readyz").status_code == 200
                    ):
                        return
                if time.monotonic() > until:
                    raise TimeoutError(f"not ready within {READY_S:g} s\n{self.logs()}")
                time.sleep(0.05)

    def _announced(self, names: list[str]) -> bool:
        """Whether each has told the directory that it serves. By its process id: one that was killed a moment ago still counts
        as live."""
        with suppress(redis.RedisError), self.control as client:
            found = list(client.scan_iter("darkroom:{models}:worker:*", count=1000))
            return all(any(f"-{self.processes[name].pid}-" in key for key in found) for name in names)
        return False

    def running(self, name: str) -> bool:
        return name in self.processes and self.processes[name].poll() is None

    def send(self, name: str, number: signal.Signals) -> None:
        """A signal to the one process, not to its children."""
        with suppress(ProcessLookupError):
            os.kill(self.processes[name].pid, number)

    def kill(self, name: str) -> None:
        """SIGKILL, and gone."""
        self.send(name, signal.SIGKILL)
        self.processes.pop(name).wait(10)

    def stop(self, name: str, timeout_s: float = 20.0) -> int | None:
        """SIGTERM, and its exit status; None: it had to be killed."""
        running = self.processes.pop(name)
        running.send_signal(signal.SIGTERM)
        try:
            return running.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.end(running, 1.0)

    def end(self) -> None:
        """All processes of ours, workers first."""
        for name in sorted(self.processes, reverse=True):
            with suppress(ProcessLookupError):
                process.signal_group(self.processes[name], signal.SIGCONT)
            process.end(self.processes.pop(name), 15.0)

    def engine(self, name: str) -> psutil.Process:
        (child,) = psutil.Process(self.processes[name].pid).children()
        return child

    def counts(self) -> Counts:
        """The store's counters, over all shards."""
        with self.control as client:
            return counts_of(client)

    def records(self, since: float) -> dict[str, dict[str, str]]:
        """All job records that were created from `since` on (Unix seconds)."""
        found: dict[str, dict[str, str]] = {}
        with self.control as client:
            keys = list(client.scan_iter("darkroom:*:job:*", count=1000, _type="hash"))
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.hgetall(key)
            for key, record in zip(keys, pipeline.execute(), strict=True):
                if record and float(record["created_at"]) >= since and record["status"] != "withdrawn":
                    found[key.rpartition(":")[2]] = record
        return found

    def running_jobs(self, since: float) -> int:
        return sum(record["status"] == "running" for record in self.records(since).values())

    def depths(self, column: str) -> dict[str, int]:
        """`messages` or `messages_ready` of every queue."""
        listed = self.rabbit.control("list_queues", "-q", "--no-table-headers", "name", column)
        return {name: int(count) for name, count in (line.split() for line in listed.splitlines() if line)}

    def clear(self) -> None:
        """Empty both roles of Redis and the jobs' queues, once everything of the last round is done."""
        with Connection(self.rabbit.url) as connection:
            channel = connection.channel()
            for model in ("fake", "small"):
                with suppress(NotFound):
                    channel = connection.channel()
                    until = time.monotonic() + SETTLE_S
                    while channel.queue_declare(queue_name(model), passive=True).message_count:
                        if time.monotonic() > until:
                            channel.queue_purge(queue_name(model))
                            break
                        time.sleep(0.1)
        # A delivery whose job another worker has ended is looked at once a second, and acked then.
        time.sleep(LOOK_S)
        for server in (self.state, self.cache):
            with redis.Redis(port=server.port) as client:
                client.flushall()

    def wait_empty(self) -> None:
        """Until the store holds no live job: what was delivered late, of an earlier round, has ended."""
        until = time.monotonic() + READY_S
        while self.counts().live:
            if time.monotonic() > until:
                raise TimeoutError("jobs of an earlier round do not end")
            time.sleep(0.1)

    def rabbit_env(self, name: str, value: str) -> None:
        """Set one of RabbitMQ's application variables for channels and queues to come."""
        self.rabbit.control("eval", f"application:set_env(rabbit, {name}, {value}).")

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.parent.name}\n{path.read_text(errors='replace')[-2000:]}"
            for path in sorted(self.folder.glob("*/output.log"))
        )


def counts_of(client: redis.Redis) -> Counts:
    """The counters of the store that `client`, which decodes, is connected to."""
    shards = [client.hgetall(f"{PREFIX % shard}counts") for shard in SHARDS]
    live = sum(client.zcard(f"{PREFIX % shard}deadlines") for shard in SHARDS)
    total = {
        name: sum(int(shard.get(name, 0)) for shard in shards)
        for name in ("recorded", "withdrawn", *TERMINAL)
    }
    recorded = total.pop("recorded")
    return Counts(recorded, total, live)


def final(record: dict[str, str], seen: str) -> Ended:
    """The checker's view of a record of the store."""
    failure = record.get("failure", "")
    return Ended(
        status=record["status"],
        created_at=float(record["created_at"]),
        deadline=float(record["deadline"]),
        finished_at=float(record.get("finished_at", 0)),
        attempt=int(record["attempt"]),
        code=failure.partition('"code":"')[2].partition('"')[0],
        seen=seen,
    )


class Listener:
    """Counts the terminal transitions that the store announces, from `start` to `stop`. Survives a store that is away."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ending = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self.heard: dict[str, int] = {}

    def start(self) -> None:
        self._thread.start()
        self._listening.wait(5)

    def stop(self) -> dict[str, int]:
        self._ending.set()
        self._thread.join(10)
        return self.heard

    def _run(self) -> None:
        while not self._ending.is_set():
            with (
                suppress(redis.RedisError, OSError),
                redis.Redis(port=self._port, decode_responses=True) as client,
            ):
                pubsub = client.pubsub(ignore_subscribe_messages=True)
                pubsub.subscribe(*(f"{PREFIX % shard}events" for shard in SHARDS))
                self._listening.set()
                while not self._ending.is_set():
                    message = pubsub.get_message(timeout=0.2)
                    if message is None:
                        continue
                    job_id, status = message["data"].split(" ", 2)[:2]
                    if status in TERMINAL:
                        self.heard[job_id] = self.heard.get(job_id, 0) + 1
            self._ending.wait(0.1)


@contextmanager
def opened(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    try:
        site.open()
        yield site
    finally:
        site.close()
