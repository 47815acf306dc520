"""Which connections of an address are too many, and that only these are closed."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager, ExitStack

import pytest

from api import connections
from api.connections import ConnectionGuard, excess, owner


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::5", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::5", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("not an address", "not an address"),
    ],
)
def test_a_network_of_ipv6_counts_as_one_address(address: str, name: str) -> None:
    assert owner(address) == name


def test_the_newest_of_the_address_are_too_many_and_no_others() -> None:
    now = [("192.0.2.1", port) for port in (5, 4, 3, 2, 1)] + [("192.0.2.2", 1)]
    before = {("192.0.2.1", 3): 0, ("192.0.2.1", 2): 1}
    over = excess(now, before, 2)
    assert {port for _, port in over} == {5, 4, 1}
    assert {address for address, _ in over} == {"192.0.2.1"}
    assert excess(now, before, 5) == []


def test_a_look_closes_what_is_too_much_and_nothing_else_of_the_process() -> None:
    with ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        other = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        pairs = []
        for server in (listener,) * 3 + (other,) * 3:
            client = opened.enter_context(socket.create_connection(server.getsockname(), timeout=5.0))
            pairs.append((client, opened.enter_context(server.accept()[0])))
        guard = ConnectionGuard(listener.getsockname()[1], 3)
        assert guard.look() == 0
        late = opened.enter_context(socket.create_connection(listener.getsockname(), timeout=5.0))
        opened.enter_context(listener.accept()[0])
        assert guard.look() == 1
        assert late.recv(1) == b""
        for client, accepted in pairs:
            accepted.sendall(b"x")
            assert client.recv(1) == b"x"
        opened.enter_context(socket.create_connection(listener.getsockname(), timeout=5.0))


def test_what_is_known_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at thousands of connections must not hold up the event loop."""
    looked_at: list[int] = []
    duplicate = connections._duplicate

    def noted(number: int) -> AbstractContextManager[socket.socket | None]:
        looked_at.append(number)
        return duplicate(number)

    monkeypatch.setattr(connections, "_duplicate", noted)
    with ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        guard = ConnectionGuard(listener.getsockname()[1], 2)

        def accepted() -> tuple[socket.socket, socket.socket]:
            client = opened.enter_context(socket.create_connection(listener.getsockname(), timeout=5.0))
            return client, opened.enter_context(listener.accept()[0])

        (_, first), (client, second) = accepted(), accepted()
        assert guard.look() == 0
        both = {first.fileno(), second.fileno()}
        assert both <= set(looked_at)
        looked_at.clear()
        assert guard.look() == 0
        assert both.isdisjoint(looked_at)
        # Another connection under a number that is known is another one: what was known of the first does not count for it.
        number = second.fileno()
        second.close()
        client.close()
        _, third = accepted()
        _, fourth = accepted()
        assert number in (third.fileno(), fourth.fileno())
        assert guard.look() == 1
