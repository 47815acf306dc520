"""The API under load: cache hits against a constant answer of the same size, and submits by two hundred clients at once.

    python -m benchmarks.api --json out.json --html out.html

Starts a private RabbitMQ and Redis, a worker with the fake engine, and the API with one route more, which answers a constant through the same
server, middleware and routing (`benchmarks/api_server.py`). Where there are two cores the server has one to itself, and all else the other.
Rounds alternate between constant and hit, and the constant is measured twice (A/A). `hit_over_constant` is the ratio of requests
per second. The clients are bare sockets that are kept open: they must cost less than what they measure.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks import report
from cli.services import process
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer

READY_S = 60.0
CONNECTIONS = 64
CLIENTS = 200
PROMPT = {"prompt": "a red apple on a blue background", "seed": 7}


@dataclass
class Deployment:
    """A running API, by port, and its process."""

    port: int
    api: psutil.Process


@contextmanager
def deployed(folder: Path, body_bytes: int) -> Iterator[Deployment]:
    with ExitStack() as stack:
        redis = RedisServer(folder / "redis")
        redis.start()
        stack.callback(redis.stop)
        rabbit = RabbitServer(folder / "rabbitmq")
        rabbit.start()
        stack.callback(rabbit.stop)
        port = process.free_port()
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(report.ROOT), os.environ.get("PYTHONPATH", "")))),
            "DARKROOM_PORT": str(port),
            "DARKROOM_REDIS_URL": redis.url,
            "DARKROOM_BROKER_URL": rabbit.url,
            "DARKROOM_BLOB_DIR": str(folder / "blobs"),
            "DARKROOM_ENGINE": "fake",
            "DARKROOM_MODEL": "fake",
            "DARKROOM_LOG_LEVEL": "warning",
            "DARKROOM_JOB_TTL_S": "3600",
            "DARKROOM_BENCH_BYTES": str(body_bytes),
        }
        children = {
            module: process.launch([sys.executable, "-m", module], folder / module, environ)
            for module in ("benchmarks.api_server", "worker")
        }
        for child in children.values():
            stack.callback(process.end, child)
        until = time.monotonic() + READY_S
        while not _ready(port):
            if time.monotonic() > until:
                raise RuntimeError((folder / "benchmarks.api_server" / "output.log").read_text()[-2000:])
            time.sleep(0.1)
        api = psutil.Process(children["benchmarks.api_server"].pid)
        _pin(api)
        yield Deployment(port, api)


def _ready(port: int) -> bool:
    try:
        models = httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"]
        return any(model["live_workers"] for model in models)
    except (httpx.TransportError, KeyError):
        return False


def _pin(api: psutil.Process) -> None:
    """The server alone on one core, its threads too; everything else on the others."""
    cores = sorted(psutil.Process().cpu_affinity())
    if len(cores) < 2:
        return
    for thread in api.threads():
        os.sched_setaffinity(thread.id, {cores[0]})
    for each in psutil.process_iter():
        try:
            if each.pid != api.pid and each.username() == psutil.Process().username() and _ours(each):
                for thread in each.threads():
                    os.sched_setaffinity(thread.id, set(cores[1:]))
        except (psutil.Error, OSError):
            continue


def _ours(candidate: psutil.Process) -> bool:
    """Whether this benchmark started it, or is it."""
    me = os.getpid()
    return candidate.pid == me or any(parent.pid == me for parent in candidate.parents())


def request_of(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


@dataclass
class Load(asyncio.Protocol):
    """One kept-open connection that sends its next request as soon as it has its answer, until `until` (monotonic seconds)."""

    next_request: Callable[[], bytes]
    until: float
    done: asyncio.Future[None]
    latencies_s: list[float] = field(default_factory=list)
    statuses: dict[bytes, int] = field(default_factory=dict)
    _buffer: bytes = b""
    _sent_at: float = 0.0
    _transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lowered = head.lower()
        begin = lowered.index(b"content-length:") + 15
        length = int(lowered[begin:].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        self._buffer = b""
        now = time.monotonic()
        self.latencies_s.append(now - self._sent_at)
        status = head[9:12]
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if now >= self.until:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _send(self) -> None:
        self._sent_at = time.monotonic()
        self._transport.write(self.next_request())


async def run_load(
    port: int, connections: int, seconds: float, next_request: Callable[[], bytes], expected: bytes
) -> tuple[float, list[float]]:
    """Answers per second, and the latencies in seconds. Raises `RuntimeError` where an answer is not the `expected` one."""
    loop = asyncio.get_running_loop()
    begun = time.monotonic()
    loads = [Load(next_request, begun + seconds, loop.create_future()) for _ in range(connections)]
    for load in loads:
        await loop.create_connection(lambda load=load: load, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*(load.done for load in loads))
    took_s = time.monotonic() - begun
    statuses = {status for load in loads for status in load.statuses}
    if statuses != {expected}:
        raise RuntimeError(f"Answers were {statuses}, not {expected!r}.")
    latencies = [latency for load in loads for latency in load.latencies_s]
    return len(latencies) / took_s, latencies


def prime() -> int:
    """The size of a hit's body, on a deployment that ends at once."""
    with tempfile.TemporaryDirectory() as name, deployed(Path(name), 100) as running:
        return len(hit_body(running.port))


def hit_body(port: int) -> bytes:
    """Have the picture computed once; the body of a hit."""
    url = f"http://127.0.0.1:{port}/v1/jobs"
    httpx.post(url, json=PROMPT, headers={"Prefer": "wait=30"}, timeout=60).raise_for_status()
    answer = httpx.post(url, json=PROMPT)
    if answer.headers["x-cache"] != "hit":
        raise RuntimeError("The cache did not do what is measured here.")
    return answer.content


def cpu_us(api: psutil.Process) -> float:
    times = api.cpu_times()
    return float(times.user + times.system) * 1e6


def measure(running: Deployment, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Samples by name: requests per second, CPU microseconds of the server per request, and submit latencies in milliseconds."""
    hit_body(running.port)
    arms = {
        "constant": (request_of("/constant", PROMPT), b"200"),
        "hit": (request_of("/v1/jobs", PROMPT), b"200"),
        "constant again": (request_of("/constant", PROMPT), b"200"),
    }
    samples: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, (request, expected) in arms.items():
            before = cpu_us(running.api)
            rate, latencies = asyncio.run(
                run_load(running.port, CONNECTIONS, seconds, lambda request=request: request, expected)  # type: ignore[misc]
            )
            if number:  # the first round warms up
                samples.setdefault(f"{name} per s", []).append(rate)
                spent = (cpu_us(running.api) - before) / len(latencies)
                samples.setdefault(f"{name} cpu us", []).append(spent)
    count = iter(range(10**9))
    rate, latencies = asyncio.run(
        run_load(
            running.port,
            CLIENTS,
            seconds * 2,
            lambda: request_of("/v1/jobs", {**PROMPT, "seed": 1_000_000 + next(count)}),
            b"202",
        )
    )
    samples["submits per s"] = [rate]
    samples["submit ms"] = [latency * 1000 for latency in latencies]
    return samples


def figures_of(samples: dict[str, list[float]]) -> dict[str, float]:
    median = {name: statistics.median(values) for name, values in samples.items()}
    return {
        "hit_over_constant": median["hit per s"] / median["constant per s"],
        "control_ratio": median["constant again per s"] / median["constant per s"],
        "hits_per_s": median["hit per s"],
        "constant_per_s": median["constant per s"],
        "hit_cpu_us": median["hit cpu us"],
        "constant_cpu_us": median["constant cpu us"],
        "submits_per_s": median["submits per s"],
        "submit_p50_ms": median["submit ms"],
        "submit_p99_ms": statistics.quantiles(samples["submit ms"], n=100)[-1],
    }


def plot_of(samples: dict[str, list[float]]) -> Any:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    ordered = sorted(samples["submit ms"])
    axes.plot(ordered, [(place + 1) / len(ordered) for place in range(len(ordered))])
    axes.set(xlabel=f"milliseconds of a submit, {CLIENTS} clients", ylabel="share of submits", ylim=(0, 1))
    axes.grid(alpha=0.3)
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    rounds, seconds = (3, 2.0) if args.quick else (9, 5.0)
    size = prime()
    with tempfile.TemporaryDirectory() as name, deployed(Path(name), size) as running:
        samples = measure(running, rounds, seconds)
    report.publish(
        args,
        "api",
        {
            "connections": CONNECTIONS,
            "clients": CLIENTS,
            "rounds": rounds,
            "seconds": seconds,
            "body_bytes": size,
        },
        figures_of(samples),
        {name: [round(value, 3) for value in values] for name, values in samples.items()},
        plot_of(samples),
    )


if __name__ == "__main__":
    main()
