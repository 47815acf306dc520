"""Clients that connect and do nothing, or never end: each is bounded, and others are answered meanwhile. Real sockets."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.conftest import Deploy, Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PATIENCE_S = 30.0
FEW_FILES = 1024
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
BODY = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
SMALL_BUFFER = 4096
ESTABLISHED = "01"
LARGE = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(autouse=True)
def many_open_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(8192, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connected(stack: Stack, source: str = "127.0.0.1") -> socket.socket:
    url = httpx.URL(stack.url)
    return socket.create_connection(
        (url.host, url.port or 80), timeout=PATIENCE_S, source_address=(source, 0)
    )


@contextmanager
def clients(
    stack: Stack, count: int, said: bytes = b"", source: str = "127.0.0.1"
) -> Iterator[list[socket.socket]]:
    """So many connections, each of which has sent `said` and no more."""
    with ExitStack() as opened:
        sockets = []
        for _ in range(count):
            client = opened.enter_context(connected(stack, source))
            client.sendall(said)
            sockets.append(client)
        yield sockets


def until(holds: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def open_connections(stack: Stack) -> int:
    """Those of clients that the API has not closed."""
    port = httpx.URL(stack.url).port
    api = psutil.Process(stack.processes["api"].pid)
    return sum(
        each.laddr.port == port and each.status == "ESTABLISHED" for each in api.net_connections("tcp")
    )


def everything(client: socket.socket) -> bytes:
    """All that the server says until it closes the connection."""
    said = b""
    try:
        while part := client.recv(65_536):
            said += part
    except ConnectionResetError:
        pass
    return said


def slowest(stack: Stack, requests: int) -> float:
    """The 99th percentile, in seconds, of a client that asks on a new connection each time."""
    times = []
    for _ in range(requests):
        began = time.monotonic()
        assert httpx.get(f"{stack.url}/healthz", timeout=PATIENCE_S).status_code == 200
        times.append(time.monotonic() - began)
    return sorted(times)[int(0.99 * len(times)) - 1]


def test_an_idle_an_unfinished_and_a_kept_connection_end_by_the_timer(deploy: Deploy) -> None:
    stack = deploy(workers=0, rabbitmq=False, DARKROOM_HEADER_TIMEOUT_S="1")
    for said, answer in ((b"", b""), (HEAD, b""), (HEAD + b"\r\n", b"HTTP/1.1 200")):
        with connected(stack) as client:
            client.settimeout(8.0)
            client.sendall(said)
            assert everything(client).startswith(answer), said


def test_a_head_may_be_so_long_and_no_longer(deploy: Deploy) -> None:
    stack = deploy(workers=0, rabbitmq=False)
    with connected(stack) as client:
        client.sendall(HEAD + b"X-Long: " + b"a" * 20_000)
        assert everything(client).startswith(b"HTTP/1.1 431")
    assert stack.http.get("/healthz", headers={"X-Long": "a" * 12_000}).status_code == 200


def test_a_client_that_asks_and_never_reads_is_cut_off(deploy: Deploy) -> None:
    stack = deploy(workers=0, rabbitmq=False, DARKROOM_WRITE_TIMEOUT_S="2", DARKROOM_HEADER_TIMEOUT_S="120")
    stack.http.close()
    with clients(stack, 20, LARGE * 150) as greedy:
        until(lambda: open_connections(stack) >= len(greedy))
        until(lambda: open_connections(stack) == 0)
    assert httpx.get(f"{stack.url}/healthz").status_code == 200


def test_the_kernel_keeps_little_of_what_is_not_read(deploy: Deploy) -> None:
    """It is memory of the container, and was megabytes for each connection."""
    stack = deploy(workers=0, rabbitmq=False, DARKROOM_WRITE_TIMEOUT_S="20")
    stack.http.close()
    port = httpx.URL(stack.url).port or 80
    with ExitStack() as opened:
        for _ in range(10):
            deaf = opened.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            deaf.connect(("127.0.0.1", port))
            deaf.setblocking(False)
            with suppress(BlockingIOError):
                deaf.sendall(LARGE * 150)
        # Answers to all of them have begun, and none goes on.
        until(lambda: min(unread(port), default=0) > 0 and len(unread(port)) == 10)
        quiet_since, before = time.monotonic(), unread(port)
        while time.monotonic() < quiet_since + 1.0:
            if unread(port) != before:
                quiet_since, before = time.monotonic(), unread(port)
            time.sleep(0.05)
    print(json.dumps({"kept_bytes": before}))
    assert max(before) < 256 * 1024


def unread(port: int) -> list[int]:
    """Bytes that the kernel keeps for each open connection to `port`, for its client to take (proc_pid_net(5))."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return sorted(
        int(line[4].partition(":")[0], 16)
        for line in lines
        if line[3] == ESTABLISHED and line[1].endswith(f":{port:04X}")
    )


def test_one_address_cannot_hold_all_connections(deploy: Deploy) -> None:
    stack = deploy(
        workers=0,
        rabbitmq=False,
        DARKROOM_MAX_CONNECTIONS="64",
        DARKROOM_MAX_CONNECTIONS_PER_ADDRESS="16",
        DARKROOM_HEADER_TIMEOUT_S="120",
    )
    first = connected(stack, "127.0.0.2")
    first.sendall(HEAD + b"\r\n")
    assert first.recv(65_536).startswith(b"HTTP/1.1 200")
    with first, clients(stack, 200, source="127.0.0.2"):
        until(lambda: open_connections(stack) <= 17)
        for _ in range(5):
            assert httpx.get(f"{stack.url}/healthz", timeout=5.0).status_code == 200
        # Those that were there first stay.
        first.sendall(HEAD + b"\r\n")
        assert first.recv(65_536).startswith(b"HTTP/1.1 200")
    told = httpx.get(f"{stack.url}/metrics").text
    refused = next(
        line for line in told.splitlines() if line.startswith("darkroom_connections_refused_total ")
    )
    assert float(refused.split()[1]) >= 100


def test_a_good_client_among_thousands_of_idle_connections(deploy: Deploy) -> None:
    """And hundreds of slow ones. The process begins with as many open files as most systems allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, hard))
    try:
        stack = deploy(workers=0, rabbitmq=False, DARKROOM_HEADER_TIMEOUT_S="120")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    memory = psutil.Process(stack.processes["api"].pid).memory_info
    before, used = [], memory().rss
    during = []
    for _ in range(2):
        before.append(slowest(stack, 100))
        with (
            clients(stack, 2000),
            clients(stack, 100, HEAD + b"X-Long: " + b"a" * 10_000),
            clients(stack, 100, BODY),
        ):
            until(lambda: open_connections(stack) >= 2200)
            during.append(slowest(stack, 100))
            grown = memory().rss - used
        until(lambda: open_connections(stack) < 100)
    figures = {"idle": 2000, "slow": 200, "before_s": before, "during_s": during, "grown_mb": grown >> 20}
    print(json.dumps({"fault": 48, **figures}))
    # Three times, and what a busy machine adds.
    assert min(during) <= 3 * max(before) + 0.1
    assert grown < 150 * 2**20
