"""The clients that `benchmarks.neighbours` sends, against sockets of the test's own; its arithmetic on figures that are known."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.lib import bare_http
from benchmarks.neighbours import crowd, figures, measuring, memory
from benchmarks.neighbours.crowd import Crowd
from benchmarks.neighbours.good import KINDS
from benchmarks.neighbours.place import FULL

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


class Listener:
    """Accepts all, and closes nothing by itself."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self.socket.getsockname()[1]
        self.accepted: list[tuple[socket.socket, str]] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                made, (address, _) = self.socket.accept()
            except OSError:
                return
            self.accepted.append((made, address))

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for made, _ in self.accepted:
            made.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.fixture
def gathered(listener: Listener) -> Iterator[Callable[..., Crowd]]:
    """Starts crowds that run until the end of the test."""
    ended = threading.Event()
    threads = []

    def start(*kinds: str, addresses: int = 1) -> Crowd:
        made, ready = Crowd(listener.port, kinds, addresses), threading.Event()
        threads.append(threading.Thread(target=made.run, args=(ended.is_set, ready.set)))
        threads[-1].start()
        assert ready.wait(PATIENCE_S)
        return made

    yield start
    ended.set()
    for thread in threads:
        thread.join(PATIENCE_S)


def test_a_crowd_comes_from_all_addresses_and_comes_back(
    listener: Listener, gathered: Callable[..., Crowd], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BACK_S", "REFUSED_BACK_S"):
        monkeypatch.setattr(crowd, name, (0.0, 0.1))
    found = gathered(*["idle"] * 40, addresses=4)
    until(lambda: len(listener.accepted) == 40)
    assert Counter(address for _, address in listener.accepted) == {f"127.0.1.{n}": 10 for n in range(1, 5)}
    for made, _ in listener.accepted[:5]:
        made.close()
    until(lambda: len(listener.accepted) == 45)
    until(lambda: (found.counts["opened"], found.counts["most_open"]) == (45, 40))


@pytest.mark.parametrize("kind", ["head", "body"])
def test_slow_clients_never_end(
    listener: Listener, gathered: Callable[..., Crowd], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(crowd, "DRIP_S", 0.02)
    gathered(kind)
    until(lambda: bool(listener.accepted))
    made, _ = listener.accepted[0]
    made.settimeout(PATIENCE_S)
    heard = b""
    while len(heard) < len(crowd.SAID[kind]) + 3:
        heard += made.recv(65_536)
    assert heard.startswith(crowd.SAID[kind])


def test_a_deaf_client_reads_nothing(listener: Listener, gathered: Callable[..., Crowd]) -> None:
    gathered("deaf")
    until(lambda: bool(listener.accepted))
    made, _ = listener.accepted[0]
    made.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            made.send(b"x" * 65_536)
    count, queued_mb = memory.connections(listener.port)
    assert count == 1
    assert queued_mb > 0


@pytest.mark.anyio
async def test_an_answer_is_read_whole() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(bare_http.value_of(asked.lower(), b"content-length")))
        writer.write(
            b"HTTP/1.1 202 Accepted\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        answer = await bare_http.exchange(port, bare_http.request("POST", "/", "dk_1", {"prompt": "é"}))
    assert (answer.status, answer.json()) == (202, {"prompt": "é"})
    assert bare_http.value_of(answer.head, b"retry-after") == b"7"


def test_the_limit_is_the_charts() -> None:
    values = yaml.safe_load((ROOT / "helm" / "darkroom" / "values.yaml").read_text())
    assert f"{memory.chart_limit_mb():g}Mi" == values["api"]["resources"]["limits"]["memory"]


def test_the_proxy_has_its_own_limits_at_full_size() -> None:
    text = (ROOT / "docs" / "haproxy.cfg").read_text()
    for name, value in FULL.proxied.items():
        assert f"${{{name}-{value}}}" in text


def row(before: float, during: float, after: float, mb: float) -> dict[str, Any]:
    times = {kind: [before, during, after] for kind in KINDS}
    times["read"] = [before, 2 * during, after]
    return {
        "p99_ms": times,
        "cpu_s": {"during": 3.0, "after": 1.5},
        "rss_mb": mb,
        "queued_mb": 6.0,
        "front_connections": 10,
    }


def test_figures_are_medians_of_pairs_and_the_worst_kind() -> None:
    rows = {
        "control": [row(10, 5, 10, 90), row(100, 50, 100, 90), row(10, 5, 11, 90)],
        "idle": [row(10, 10, 10, 90), row(50, 60, 50, 94), row(10, 90, 10, 90)],
    }
    found = figures.figures_of({"direct": rows}, ["direct poll 500"], 200.0)
    assert found["direct_idle_p99_during_over_before"] == pytest.approx(2.4)
    assert found["direct_idle_p99_after_over_before"] == pytest.approx(1.0)
    assert found["p99_during_over_before"] == pytest.approx(2.4)
    assert found["control_p99_during_over_before"] == pytest.approx(1.0)
    assert found["direct_memory_peak_mb"] == pytest.approx(100)
    assert found["memory_peak_over_limit"] == pytest.approx(0.5)
    assert found["good_failed"] == 1
    assert found["direct_connections"] == 10
    assert found["direct_idle_api_cpu_during_over_after"] == 2


def test_the_99th_percentile() -> None:
    assert measuring.p99([float(n) for n in range(1, 101)]) == 99
    assert measuring.p99([1.0]) == 1
