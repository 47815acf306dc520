"""Connects to addresses that somebody else chose, and protects our own network from such connections.

A name is resolved once, and every address that it has is checked. The connection goes to a checked
address. There is no second look-up that DNS rebinding could use.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import Final

import httpcore

from contracts.addresses import Address, Network, forbidden, inside

MAX_ADDRESSES: Final = 4
"""How many addresses of one name are tried."""
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host name and a port to its addresses. Raises `CallFailed`."""


class CallFailed(Exception):
    """The call got no answer.

    `code` says why, for programs. `refused`: we do not call this address, now or later.
    """

    def __init__(self, code: str, *, refused: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.refused = refused


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects only to checked addresses: public ones, and those of the operator's own networks (`allowed`).

    `only_allowed`: only to the latter. Webhooks are sent without TLS to these alone.
    """

    def __init__(
        self,
        dialer: httpcore.AsyncNetworkBackend,
        resolve: Resolve,
        allowed: Sequence[Network],
        *,
        only_allowed: bool = False,
    ) -> None:
        self._dialer = dialer
        self._resolve = resolve
        self._allowed = allowed
        self._only_allowed = only_allowed

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of `host` that accepts. Raises `CallFailed`, and as httpcore does."""
        addresses = [ip_address(text) for text in await self._resolve(host, port)]
        self._check(addresses)
        fault: Exception = CallFailed("name_not_resolved")
        for address in addresses[:MAX_ADDRESSES]:
            try:
                return await self._dialer.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                fault = error
        raise fault

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Always raises `CallFailed`: nobody whom we call is on a Unix socket."""
        raise CallFailed("address_refused", refused=True)

    async def sleep(self, seconds: float) -> None:
        """Sleep, as httpcore asks of its backends."""
        await asyncio.sleep(seconds)

    def _check(self, addresses: Sequence[Address]) -> None:
        # All addresses: a name that also has an internal address may be an attack.
        if any(forbidden(address, self._allowed) for address in addresses):
            raise CallFailed("address_refused", refused=True)
        if self._only_allowed and not all(inside(address, self._allowed) for address in addresses):
            raise CallFailed("plain_http_refused", refused=True)


async def look_up(pool: ThreadPoolExecutor, host: str, port: int) -> Sequence[str]:
    """The addresses of a name, looked up on a thread of `pool`. Raises `CallFailed`."""
    # The system turns every notation that it understands into an address, also octal and hexadecimal ones.
    call = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        entries = await asyncio.get_running_loop().run_in_executor(pool, call)
    except (OSError, UnicodeError):
        raise CallFailed("name_not_resolved") from None
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in entries))


def is_tls_fault(error: BaseException) -> bool:
    """Whether the error of a connection comes from TLS."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
