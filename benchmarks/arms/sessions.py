"""Short sessions of load on an arm, and what it used in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import httpx
from redis import Redis

from benchmarks.arms import processes
from benchmarks.arms.deployment import SLOW, Arm, body_of, picture
from benchmarks.lib import bare_http, sockets
from benchmarks.lib.asking import SLOW as SLOW_PROMPT
from benchmarks.lib.processes import on_core_s
from benchmarks.lib.saturate import CLIENTS

SUBMITTERS: Final = 200
FILLERS: Final = 8
SETTLE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """One session that draws. CPU in milliseconds a picture of each part; idle as shares of the session: by the engine's own times
    of its passes, and by its process."""

    pictures: int
    rate: float
    cpu_ms: dict[str, float]
    device_idle: float
    core_idle: float
    images_per_pass: float

    @property
    def total_ms(self) -> float:
        return sum(self.cpu_ms.values())


def draw(arm: Arm, model: str, seconds: float) -> Drawn:
    """Saturates the arm with cold pictures. Raises `RuntimeError` where one does not come."""
    worker = arm.worker
    passes, core_s, cpu = worker.metrics(), on_core_s(worker.engine), processes.cpu_s(arm)
    rate, latencies = sockets.saturate(
        arm.port, CLIENTS, seconds, lambda: _request(picture(model), "Prefer: wait=30\r\n"), b"200"
    )
    spent = {name: after - cpu[name] for name, after in processes.cpu_s(arm).items()}
    core_s = on_core_s(worker.engine) - core_s
    drawn, took_s = len(latencies), len(latencies) / rate
    after = _once_counted(arm, passes.get("darkroom_images_total", 0.0) + drawn)

    def grown(name: str) -> float:
        return after[name] - passes.get(name, 0.0)

    return Drawn(
        pictures=drawn,
        rate=rate,
        cpu_ms={name: 1000 * used / drawn for name, used in spent.items()},
        device_idle=1 - grown("darkroom_batch_seconds_sum") / took_s,
        core_idle=1 - core_s / took_s,
        images_per_pass=drawn / grown("darkroom_batch_seconds_count"),
    )


def _once_counted(arm: Arm, images: float) -> dict[str, float]:
    """The worker's metrics once it has counted so many images, which may be a moment after they were answered. Raises `RuntimeError`
    where it does not: then what was answered was not drawn."""
    until = time.monotonic() + SETTLE_S
    while (found := arm.worker.metrics()).get("darkroom_images_total") != images:
        if time.monotonic() > until:
            raise RuntimeError(
                f"{images:.0f} images should be drawn, and {found.get('darkroom_images_total')} are."
            )
        time.sleep(0.05)
    return found


def submit_rate(arm: Arm, seconds: float) -> float:
    """Accepted submits per second of 200 clients at once, while what they ask for waits. Raises `RuntimeError` if one is refused."""
    rate, _ = sockets.saturate(
        arm.port, SUBMITTERS, seconds, lambda: _request(picture(SLOW, SLOW_PROMPT)), b"202"
    )
    return rate


def _request(body: dict[str, Any], more: str = "") -> bytes:
    return bare_http.request("POST", "/v1/jobs", body=body, more=more)


def redis_bytes(
    arms: Sequence[Arm], count: int, make: Callable[[], dict[str, Any]], status: str, settle_s: float
) -> dict[str, float]:
    """Bytes by which `count` jobs more make each arm's Redis grow, for each job, once they are `status`: "succeeded", or "queued" (a
    few of those run). What is there for a moment alone is gone after `settle_s`."""
    for arm in arms:
        _ask(arm, 2 * FILLERS, make, status)
    before = _held(arms, settle_s)
    for arm in arms:
        _ask(arm, count, make, status)
    after = _held(arms, settle_s)
    return {arm.name: (after[arm.name] - before[arm.name]) / count for arm in arms}


def _ask(arm: Arm, count: int, make: Callable[[], dict[str, Any]], status: str) -> None:
    headers = {"Prefer": "wait=60"} if status == "succeeded" else {}
    expected = {"succeeded"} if status == "succeeded" else {"queued", "running"}
    with (
        httpx.Client(base_url=arm.platform.url, headers=headers, timeout=90) as client,
        ThreadPoolExecutor(FILLERS) as pool,
    ):
        for answer in pool.map(lambda _: client.post("/v1/jobs", json=make()), range(count)):
            if body_of(answer)["status"] not in expected:
                raise RuntimeError(answer.text)


def _held(arms: Sequence[Arm], settle_s: float) -> dict[str, int]:
    """Bytes that each Redis holds, without the buffers of its clients and of its file; the least of a while, for some of it is in
    passing."""
    least: dict[str, int] = {}
    with ExitStack() as stack:
        clients = {arm.name: stack.enter_context(Redis.from_url(arm.redis.url)) for arm in arms}
        until = time.monotonic() + settle_s
        while not least or time.monotonic() < until:
            for name, client in clients.items():
                memory = client.info("memory")
                held = memory["used_memory"] - memory["mem_clients_normal"] - memory["mem_aof_buffer"]
                least[name] = min(least.get(name, held), held)
            time.sleep(0.1)
    return least
