"""Fault 33: receivers that are down, broken, slow, moved or gone. Real broker, stores, workers and receivers."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psutil
import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from tests.faults_api.conftest import figures
from tests.integration.conftest import Deploy, Stack
from tests.webhooks.conftest import receiving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

DELAYS_S = (0.5, 1.0, 2.0)
FAST = {
    "DARKROOM_WEBHOOK_ALLOW_NETWORKS": "127.0.0.1/32",
    "DARKROOM_WEBHOOK_RETRY_S": ",".join(map(str, DELAYS_S)),
    "DARKROOM_WEBHOOK_TIMEOUT_S": "2",
}


def settled(stack: Stack, job: dict[str, Any], timeout_s: float = 60.0) -> dict[str, Any]:
    """The log of the job's webhook once nothing more will happen to it."""
    until = time.monotonic() + timeout_s
    while True:
        log: dict[str, Any] = stack.http.get(job["urls"]["webhook"]).json()
        if log["status"] in ("delivered", "failed", "disabled"):
            return log
        assert time.monotonic() < until, (log, stack.logs())
        time.sleep(0.1)


def hooked(stack: Stack, url: str, **body: Any) -> dict[str, Any]:
    return stack.submit(webhook={"url": url}, **{"prompt": "a", "seed": "random", **body})


def schedule_kept(log: dict[str, Any]) -> float:
    """How far (seconds) the worst attempt came late; none may be early by more than the jitter."""
    worst = 0.0
    for before, after, delay_s in zip(log["attempts"], log["attempts"][1:], DELAYS_S, strict=False):
        waited_s = after["at"] - (before["at"] + before["duration_ms"] / 1000)
        assert waited_s >= 0.9 * delay_s - 0.05, log
        worst = max(worst, waited_s - 1.1 * delay_s)
    return worst


def jobs_per_s(stack: Stack, count: int, url: str | None) -> float:
    """The rate at which the worker ends that many jobs, submitted at once, whose ends are told to `url`."""
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        extra = {} if url is None else {"webhook": {"url": url}}
        jobs = list(
            pool.map(lambda i: stack.submit(prompt="slow=0.05", seed="random", **extra), range(count))
        )
        assert {job["status"] for job in pool.map(stack.ended, jobs)} == {"succeeded"}
    return count / (time.monotonic() - begun)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_fault_33_whatever_a_receiver_does(deploy: Deploy) -> None:
    stack = deploy(**FAST)
    secret = stack.http.get("/v1/webhooks/secret").json()["secret"]
    with ExitStack() as open_ones:
        good = open_ones.enter_context(receiving())
        broken = open_ones.enter_context(receiving(500, 503, 204))
        moved = open_ones.enter_context(receiving((302, {"Location": good.url})))
        gone = open_ones.enter_context(receiving(410))
        slow = open_ones.enter_context(receiving())
        slow.hold = threading.Event()
        jobs = {
            "up": hooked(stack, good.url),
            "down": hooked(stack, f"http://127.0.0.1:{closed_port()}/"),
            "500": hooked(stack, broken.url),
            "3xx": hooked(stack, moved.url),
            "410": hooked(stack, gone.url),
            "slow": hooked(stack, slow.url),
        }
        for job in jobs.values():
            stack.ended(job)
        # Nothing was lost by nobody being there yet.
        stack.start("webhooks", "webhooks")
        logs = {name: settled(stack, job) for name, job in jobs.items()}
        attempts = {name: len(log["attempts"]) for name, log in logs.items()}
        assert attempts == {"up": 1, "down": 4, "500": 3, "3xx": 4, "410": 1, "slow": 4}
        statuses = {name: log["status"] for name, log in logs.items()}
        assert statuses == {
            "up": "delivered",
            "down": "failed",
            "500": "delivered",
            "3xx": "failed",
            "410": "disabled",
            "slow": "failed",
        }
        assert {attempt["error"] for attempt in logs["slow"]["attempts"]} == {"timeout"}
        late_s = max(schedule_kept(log) for log in logs.values())
        assert late_s < 5.0
        for receiver, name in ((good, "up"), (broken, "500"), (moved, "3xx"), (gone, "410"), (slow, "slow")):
            assert set(receiver.ids) == {logs[name]["id"]}, name
            assert len(receiver.requests) == attempts[name]
            for headers, body in receiver.requests:
                assert Verifier(secret).verify(body, headers)["data"]["id"] == jobs[name]["id"]
        # 410 holds for what comes later.
        again = hooked(stack, gone.url)
        stack.ended(again)
        assert settled(stack, again)["status"] == "disabled"
        assert len(gone.requests) == 1

        rates: dict[str, list[float]] = {"without": [], "slow receiver": []}
        for _ in range(3):
            rates["without"].append(jobs_per_s(stack, 40, None))
            rates["slow receiver"].append(jobs_per_s(stack, 40, slow.url))
        best = {name: max(found) for name, found in rates.items()}
        assert best["slow receiver"] > 0.4 * best["without"], rates
        # 120 are owed to the slow one; another receiver's is not behind them.
        begun = time.monotonic()
        other = hooked(stack, good.url)
        stack.ended(other)
        assert settled(stack, other)["status"] == "delivered"
        behind_s = time.monotonic() - begun
        assert behind_s < 15.0
    figures(
        33,
        attempts=attempts,
        statuses=statuses,
        late_s=round(late_s, 3),
        ids_per_event=1,
        jobs_per_s={name: round(rate, 1) for name, rate in best.items()},
        other_receiver_s=round(behind_s, 2),
    )


def test_fault_33_processes_that_die_lose_and_double_nothing(deploy: Deploy) -> None:
    """Two webhook processes, killed again and again while sixty jobs end; the receiver hears of each, by one id."""
    stack = deploy(**FAST)
    # The first attempts of some fall into a kill: the lease must be short for them to be soon due again.
    with receiving() as receiver:
        for name in ("webhooks-1", "webhooks-2"):
            stack.start("webhooks", name)
        jobs = []
        for number in range(60):
            jobs.append(hooked(stack, receiver.url, prompt="slow=0.02"))
            if number in (15, 35):
                for name in ("webhooks-1", "webhooks-2"):
                    stack.kill(name, signal.SIGKILL)
                    stack.processes[name].wait(10)
                    stack.start("webhooks", name)
        for job in jobs:
            stack.ended(job)
        logs = [settled(stack, job, 90.0) for job in jobs]
        heard = Counter(receiver.ids)
    assert {log["status"] for log in logs} == {"delivered"}
    assert set(heard) == {log["id"] for log in logs}
    figures(33, jobs=len(jobs), ids=len(heard), calls=sum(heard.values()), kills=4)


def test_a_webhook_with_redis_as_broker_and_a_receiver_that_is_told_at_once(deploy: Deploy) -> None:
    stack = deploy(rabbitmq=False, **FAST)
    with receiving() as receiver:
        stack.start("webhooks", "webhooks")
        first = hooked(stack, receiver.url)
        stack.ended(first)
        receiver.wait_for(1)
        job = stack.ended(hooked(stack, receiver.url))
        log = settled(stack, job)
        assert log["attempts"][0]["at"] - job["finished_at"] < 5.0
        stack.kill("webhooks", signal.SIGTERM)
        assert stack.processes["webhooks"].wait(20) == 0


def test_the_role_carries_no_torch(deploy: Deploy) -> None:
    stack = deploy(rabbitmq=False, **FAST)
    with receiving() as receiver:
        stack.start("webhooks", "webhooks")
        stack.ended(hooked(stack, receiver.url))
        receiver.wait_for(1)
        running = psutil.Process(stack.processes["webhooks"].pid)
        maps = [each.path for each in running.memory_maps()]
        assert not [path for path in maps if "torch" in path or "numpy" in path]
        figures(33, webhooks_memory_mb=round(running.memory_info().rss / 1e6, 1))
