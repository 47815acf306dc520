"""A port is one process's alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from contracts.errors import SettingsError
from runtime.listening import is_free, listen

HOSTS = ("127.0.0.1", "0.0.0.0", "::", "::1", "localhost")
OVERLAP = {
    "127.0.0.1": {"127.0.0.1", "0.0.0.0", "::", "localhost"},
    "0.0.0.0": {"127.0.0.1", "0.0.0.0", "::", "localhost"},
    "localhost": {"127.0.0.1", "0.0.0.0", "::", "localhost"},
    "::": set(HOSTS),
    "::1": {"::", "::1"},
}


@pytest.fixture(params=[False, True], ids=["alone", "reuseport"])
def foreign(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Another program's server, with and without the option that lets others listen beside it."""
    with socket.socket() as server:
        if request.param:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


def test_a_port_in_use_is_refused_by_its_number_and_setting(foreign: socket.socket) -> None:
    port = foreign.getsockname()[1]
    with pytest.raises(SettingsError, match=rf"DARKROOM_PORT: Port {port} is in use"):
        listen("127.0.0.1", port, "DARKROOM_PORT")


@pytest.mark.parametrize("host", HOSTS)
def test_all_addresses_overlap_with_each(host: str) -> None:
    with closing(listen(host, 0, "X")) as first:
        port = first.getsockname()[1]
        assert {other for other in HOSTS if not is_free(other, port)} == OVERLAP[host]
    assert is_free(host, port), "it is free at once when the first has ended"


def test_nobody_joins_who_was_not_let_in() -> None:
    with closing(listen("127.0.0.1", 0, "X")) as alone, socket.socket() as late:
        late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            late.bind(alone.getsockname())


def test_a_port_is_shared_by_those_who_all_ask_for_it() -> None:
    with closing(listen("127.0.0.1", 0, "X", shared=True)) as first:
        port = first.getsockname()[1]
        listen("127.0.0.1", port, "X", shared=True).close()
        assert not is_free("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.7", "nowhere.invalid", "300.1.1.1", "a b", "\udce9"])
def test_a_host_that_is_not_here_is_named(host: str) -> None:
    with pytest.raises(SettingsError, match="DARKROOM_HOST"):
        listen(host, 0, "DARKROOM_PORT")
