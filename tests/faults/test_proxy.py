"""The proxy does to a connection what its name for it says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1024):
                    connection.sendall(data)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    standing = Proxy(echo)
    standing.start()
    yield standing
    standing.stop()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=15.0) as connection:
        yield connection


def echoed(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return client.recv(1024)


def test_bytes_pass(client: socket.socket) -> None:
    assert echoed(client, b"one") == b"one"


def test_a_black_hole_holds_up_what_passes_when_it_is_healed(proxy: Proxy, client: socket.socket) -> None:
    assert echoed(client, b"one") == b"one"
    proxy.hole()
    time.sleep(0.05)
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        echoed(client, b"two")
    with (
        socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3) as late,
        pytest.raises(TimeoutError),
    ):
        echoed(late, b"three")
    proxy.heal()
    client.settimeout(15.0)
    assert client.recv(1024) == b"two"


def test_a_delay_delays_both_ways(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay(0.2)
    begun = time.monotonic()
    assert echoed(client, b"one") == b"one"
    assert time.monotonic() - begun >= 0.4


def test_a_cut_is_seen_at_once_and_new_connections_work(proxy: Proxy, client: socket.socket) -> None:
    assert echoed(client, b"one") == b"one"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1024)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=15.0) as again:
        assert echoed(again, b"two") == b"two"


def test_the_client_of_a_half_open_connection_is_told_nothing(proxy: Proxy, client: socket.socket) -> None:
    assert echoed(client, b"one") == b"one"
    proxy.half_open()
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        echoed(client, b"two")
    client.sendall(b"still open")
