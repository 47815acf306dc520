"""Calling an address that a client chose, without being used against our own network.

The name is resolved once; every address that it has is checked; and the connection goes to a checked address, with the
original name in `Host` and in TLS. No second look-up, so nothing to rebind; no redirect, no proxy, no kept connection.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Final

import httpcore
import httpx

from contracts.addresses import Address, Network, forbidden, inside

MAX_ADDRESSES: Final = 4
"""Addresses of one name that are tried."""
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class CallFailed(Exception):
    """No answer. `code` is for the log of deliveries; `refused`: we do not call such an address, now or later."""

    def __init__(self, code: str, *, refused: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Answer:
    status_code: int
    retry_after: str | None


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Dials only what was checked. `plain`: without TLS, which is for the operator's own networks alone."""

    def __init__(
        self,
        dialer: httpcore.AsyncNetworkBackend,
        resolve: Resolve,
        allowed: Sequence[Network],
        *,
        plain: bool,
    ) -> None:
        self._dialer = dialer
        self._resolve = resolve
        self._allowed = allowed
        self._plain = plain

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
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
        raise CallFailed("address_refused", refused=True)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _check(self, addresses: Sequence[Address]) -> None:
        # All of them: a name that also means an inner address is not meant well.
        if any(forbidden(address, self._allowed) for address in addresses):
            raise CallFailed("address_refused", refused=True)
        if self._plain and not all(inside(address, self._allowed) for address in addresses):
            raise CallFailed("plain_http_refused", refused=True)


class Caller:
    """Posts to receivers, each call within `timeout_s` in all. `close` it."""

    def __init__(
        self,
        allowed: Sequence[Network],
        timeout_s: float,
        threads: int,
        *,
        resolve: Resolve | None = None,
        dialer: httpcore.AsyncNetworkBackend | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = allowed
        self._timeout_s = timeout_s
        # A resolver that hangs holds a thread: of its own, so that nothing else waits for it.
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="resolve")
        self._resolve = resolve or partial(_resolve, self._pool)
        self._dialer = dialer or httpcore.AnyIOBackend()
        self._context = context or ssl.create_default_context()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The receiver's answer; its body is not read. Raises `CallFailed`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._post(httpx.URL(url), headers, body)
        except CallFailed:
            raise
        except httpx.InvalidURL:
            # The door lets none of these in; a record of an older version may hold one.
            raise CallFailed("invalid_url", refused=True) from None
        except (TimeoutError, httpcore.TimeoutException):
            raise CallFailed("timeout") from None
        except httpcore.ConnectError as error:
            raise CallFailed("tls_failed" if _tls(error) else "connection_failed") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError, OSError):
            raise CallFailed("connection_broken") from None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _post(self, url: httpx.URL, headers: Mapping[str, str], body: bytes) -> Answer:
        backend = CheckedBackend(self._dialer, self._resolve, self._allowed, plain=url.scheme == "http")
        target = httpcore.URL(
            scheme=url.raw_scheme,
            host=url.raw_host,
            port=url.port or DEFAULT_PORTS[url.scheme],
            target=url.raw_path,
        )
        host = url.netloc.decode("ascii")
        all_headers = {"Host": host, "Content-Length": str(len(body)), "Connection": "close", **headers}
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self._context, network_backend=backend, max_keepalive_connections=0
            ) as pool,
            pool.stream("POST", target, headers=list(all_headers.items()), content=body) as response,
        ):
            found = {name.lower(): value for name, value in response.headers}
            retry_after = found.get(b"retry-after")
            return Answer(response.status, None if retry_after is None else retry_after.decode("latin-1"))


async def _resolve(pool: ThreadPoolExecutor, host: str, port: int) -> Sequence[str]:
    # Every notation that the system understands, octal and hexadecimal among them, becomes an address here.
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.get_running_loop().run_in_executor(pool, look_up)
    except (OSError, UnicodeError):
        raise CallFailed("name_not_resolved") from None
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def _tls(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
