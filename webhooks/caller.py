"""Calls an address that a client chose, and protects our own network from such calls.

The name is resolved once, and every address that it has is checked. The connection goes to a checked
address, with the original name in `Host` and in TLS. There is no second look-up that DNS rebinding
could use. Redirects, proxies and kept connections are not used.
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
"""How many addresses of one name are tried."""
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host name and a port to its addresses. Raises `CallFailed`."""


class CallFailed(Exception):
    """The call got no answer.

    `code` goes into the log of deliveries. `refused`: we do not call this address, now or later.
    """

    def __init__(self, code: str, *, refused: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Answer:
    """The status of a receiver's answer, and its `Retry-After` header (None: it has none)."""

    status_code: int
    retry_after: str | None


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects only to checked addresses.

    `plain`: without TLS. This is allowed only in the operator's own networks (`allowed`).
    """

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
        """Always raises `CallFailed`: no receiver is on a Unix socket."""
        raise CallFailed("address_refused", refused=True)

    async def sleep(self, seconds: float) -> None:
        """Sleep, as httpcore asks of its backends."""
        await asyncio.sleep(seconds)

    def _check(self, addresses: Sequence[Address]) -> None:
        # All addresses: a name that also has an internal address may be an attack.
        if any(forbidden(address, self._allowed) for address in addresses):
            raise CallFailed("address_refused", refused=True)
        if self._plain and not all(inside(address, self._allowed) for address in addresses):
            raise CallFailed("plain_http_refused", refused=True)


class Caller:
    """Posts to receivers. A whole call takes at most `timeout_s`. `close` it at the end.

    `allowed` are the operator's own networks; `threads` is how many names are resolved at once.
    """

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
        # A resolver that hangs holds a thread. Nothing else uses the threads of this pool.
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="resolve")
        self._resolve = resolve or partial(_resolve, self._pool)
        self._dialer = dialer or httpcore.AnyIOBackend()
        self._context = context or ssl.create_default_context()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post `body`, and return the receiver's answer. Its body is not read. Raises `CallFailed`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._post(httpx.URL(url), headers, body)
        except CallFailed:
            raise
        except httpx.InvalidURL:
            # The API refuses such URLs. A record of an older version may hold one.
            raise CallFailed("invalid_url", refused=True) from None
        except (TimeoutError, httpcore.TimeoutException):
            raise CallFailed("timeout") from None
        except httpcore.ConnectError as error:
            raise CallFailed("tls_failed" if _tls(error) else "connection_failed") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError, OSError):
            raise CallFailed("connection_broken") from None

    def close(self) -> None:
        """End the resolver's threads, without waiting for names that are being resolved."""
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
            answer_headers = {name.lower(): value for name, value in response.headers}
            retry_after = answer_headers.get(b"retry-after")
            return Answer(response.status, None if retry_after is None else retry_after.decode("latin-1"))


async def _resolve(pool: ThreadPoolExecutor, host: str, port: int) -> Sequence[str]:
    # The system turns every notation that it understands into an address, also octal and hexadecimal ones.
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        entries = await asyncio.get_running_loop().run_in_executor(pool, look_up)
    except (OSError, UnicodeError):
        raise CallFailed("name_not_resolved") from None
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in entries))


def _tls(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
