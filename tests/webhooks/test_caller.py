"""A client's URL cannot be turned against our own network. Fault 37: over sixty addresses, no connection."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import httpcore
import pytest
import trustme

from contracts.addresses import parse_networks
from runtime.checked_network import CallFailed
from tests.webhooks.conftest import Receiver, receiving
from webhooks.caller import Answer, Caller

pytestmark = pytest.mark.anyio

CONTEXT = ssl.create_default_context()
LOOPBACK = parse_networks("127.0.0.0/8,::1/128")

# Everything here means an address that nobody may call, in some notation that some system understands.
HOSTS = [
    *("127.0.0.1", "127.0.0.2", "127.255.255.254", "127.1", "127.0.1", "0", "0.0.0.0", "0.0", "localhost"),
    *("localhost.", "127.0.0.1.", "2130706433", "017700000001", "0x7f000001", "0x7f.1", "0x7f.0x0.0x0.0x1"),
    *("0177.0.0.1", "0177.0.0.01", "00000177.1", "127.0.0x1", "0x7F.0.0.1", "3232235777", "0xc0a80101"),
    *("0300.0250.1.1", "167772161", "012.0.0.1", "0xa.1", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376"),
    *("10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255"),
    *("169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "100.127.255.255"),
    *(
        "168.63.129.16",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
    ),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]"),
    *("[::ffff:169.254.169.254]", "[0:0:0:0:0:ffff:c0a8:101]", "[::127.0.0.1]", "[::7f00:1]"),
    *("[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::a00:1]", "[64:ff9b:1::7f00:1]"),
    *("[2002:7f00:1::]", "[2002:a00:1::1]", "[2002:a9fe:a9fe::]", "[2001:0:4136:e378:8000:63bf:3fff:fdd2]"),
    *("[2001:0:7f00:1::1]", "[2001:db8::1]", "[3fff::1]", "[fc00::1]", "[fd00::1]", "[fd00:ec2::254]"),
    *("[fe80::1]", "[fec0::1]", "[ff02::1]", "[ff05::2]", "[100::1]", "[5f00::1]"),
]


class Dialer(httpcore.AsyncNetworkBackend):
    """Counts every connection that would be opened, and sends all of them to `port` on loopback."""

    def __init__(self, port: int = 9) -> None:
        self.dialed: list[str] = []
        self._port = port
        self._real = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.dialed.append(host)
        return await self._real.connect_tcp("127.0.0.1", self._port, timeout, local_address, socket_options)


def caller(allowed: Any = (), timeout_s: float = 5.0, **rest: Any) -> Caller:
    return Caller(allowed, timeout_s, 8, **{"context": CONTEXT, **rest})


def resolving(*answers: Sequence[str]) -> Any:
    """A name server that gives these answers one after the other."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return left.pop(0)

    return resolve


async def failure(call: Caller, url: str) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await call.post(url, {}, b"{}")
    call.close()
    return caught.value


async def test_fault_37_no_connection_to_any_inner_address(receiver: Receiver) -> None:
    dialer = Dialer()
    port = receiver.url.split(":")[2].split("/")[0]
    outcomes: dict[str, int] = {}
    for host in HOSTS:
        for scheme in ("http", "https"):
            failed = await failure(caller(dialer=dialer), f"{scheme}://{host}:{port}/hook")
            outcomes[failed.code] = outcomes.get(failed.code, 0) + 1
            # Some notations are none on this system: then there is nothing to connect to.
            assert failed.refused or failed.code == "name_not_resolved", (host, failed.code)
    assert len(HOSTS) >= 60
    assert dialer.dialed == []
    assert receiver.requests == []
    figures = {"fault": 37, "addresses": len(HOSTS), "connections": len(dialer.dialed), "outcomes": outcomes}
    print(json.dumps(figures))


@pytest.mark.parametrize("host", ["127.1", "0x7f000001", "2130706433", "017700000001"])
async def test_the_system_does_understand_odd_notations(receiver: Receiver, host: str) -> None:
    """So that their refusal above means something."""
    call = caller(LOOPBACK)
    await call.post(receiver.url.replace("127.0.0.1", host), {}, b"{}")
    call.close()
    assert len(receiver.requests) == 1


async def test_fault_37_a_name_is_resolved_once_and_what_was_checked_is_dialed() -> None:
    """DNS rebinding: a second look-up would answer loopback."""
    dialer = Dialer()
    failed = await failure(
        caller(resolve=resolving(["8.8.8.8"], ["127.0.0.1"]), dialer=dialer), "https://rebinding.example/hook"
    )
    assert dialer.dialed == ["8.8.8.8"]
    assert failed.code == "connection_failed"


async def test_fault_37_a_name_with_one_inner_address_is_refused_altogether() -> None:
    dialer = Dialer()
    for answer in (["8.8.8.8", "127.0.0.1"], ["2606:4700::1", "fd00::1"], ["::ffff:10.0.0.1"]):
        failed = await failure(caller(resolve=resolving(answer), dialer=dialer), "https://mixed.example/hook")
        assert failed.refused
    assert dialer.dialed == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_fault_37_a_redirect_is_not_followed(status: int) -> None:
    with receiving() as inner, receiving((status, {"Location": inner.url})) as outer:
        call = caller(LOOPBACK)
        answer = await call.post(outer.url, {}, b"{}")
        call.close()
        assert answer.status_code == status
        assert inner.requests == []


async def test_plain_http_is_for_allowed_networks_alone() -> None:
    dialer = Dialer()
    failed = await failure(
        caller(LOOPBACK, resolve=resolving(["8.8.8.8"]), dialer=dialer), "http://a.example/"
    )
    assert (failed.code, failed.refused, dialer.dialed) == ("plain_http_refused", True, [])


async def test_what_arrives_is_what_was_sent(receiver: Receiver) -> None:
    call = caller(LOOPBACK)
    receiver.answers = [(503, {"Retry-After": "7"})]
    answer = await call.post(f"{receiver.url}?a=b%20c", {"webhook-id": "msg_1"}, b'{"a": 1}')
    call.close()
    assert answer == Answer(503, "7")
    ((headers, body),) = receiver.requests
    assert (body, headers["webhook-id"], headers["content-length"]) == (b'{"a": 1}', "msg_1", "8")
    assert headers["host"] == receiver.url.split("/")[2]


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_receiver(authority: trustme.CA) -> Iterator[Receiver]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("receiver.example").configure_cert(context)
    with receiving(context=context) as running:
        yield running


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls_checks_the_name_although_the_address_is_dialed(
    authority: trustme.CA, tls_receiver: Receiver
) -> None:
    port = int(tls_receiver.url.split(":")[2].split("/")[0])
    dialer = Dialer(port)
    for name, fits in (("receiver.example", True), ("other.example", False)):
        call = caller(resolve=resolving(["8.8.8.8"]), dialer=dialer, context=trusting(authority))
        if fits:
            assert (await call.post(f"https://{name}:{port}/hook", {}, b"{}")).status_code == 204
        else:
            assert (await failure(call, f"https://{name}:{port}/hook")).code == "tls_failed"
        call.close()
    ((headers, _),) = tls_receiver.requests
    assert headers["host"] == f"receiver.example:{port}"


async def test_a_certificate_that_nobody_vouches_for_is_refused(tls_receiver: Receiver) -> None:
    port = int(tls_receiver.url.split(":")[2].split("/")[0])
    call = caller(resolve=resolving(["8.8.8.8"]), dialer=Dialer(port))
    assert (await failure(call, f"https://receiver.example:{port}/")).code == "tls_failed"
    assert tls_receiver.requests == []


async def test_a_slow_receiver_is_given_up_in_time(receiver: Receiver) -> None:
    receiver.hold = threading.Event()
    begun = asyncio.get_running_loop().time()
    assert (await failure(caller(LOOPBACK, timeout_s=0.3), receiver.url)).code == "timeout"
    assert asyncio.get_running_loop().time() - begun < 10.0


async def _trickling(answer: bytes, pause_s: float) -> tuple[asyncio.Server, str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for byte in answer:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(pause_s)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_a_receiver_that_trickles_is_given_up_in_time() -> None:
    """No single read is late, yet the whole is: the limit is on all of it."""
    server, url = await _trickling(b"HTTP/1.1 204 No Content\r\n" + b"X-Slow: 1\r\n" * 200, 0.05)
    async with server:
        assert (await failure(caller(LOOPBACK, timeout_s=0.5), url)).code == "timeout"


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 9999 ?\r\n\r\n", b"\x00" * 100])
async def test_what_is_no_http_is_a_failure(answer: bytes) -> None:
    server, url = await _trickling(answer, 0)
    async with server:
        assert (await failure(caller(LOOPBACK), url)).code in ("connection_broken", "connection_failed")


async def test_an_endless_answer_is_not_read() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while sent < 1_000_000_000:
                writer.write(bytes(65_536))
                await writer.drain()
                sent += 65_536
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        call = caller(LOOPBACK)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert (await call.post(url, {}, b"{}")).status_code == 200
        call.close()
    assert sent < 20_000_000


async def test_a_closed_port_is_a_failed_connection() -> None:
    assert (await failure(caller(LOOPBACK), "http://127.0.0.1:9/")).code == "connection_failed"


async def test_a_name_that_nobody_knows() -> None:
    failed = await failure(caller(LOOPBACK), "https://nobody.invalid/")
    assert (failed.code, failed.refused) == ("name_not_resolved", False)
