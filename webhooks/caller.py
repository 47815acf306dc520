"""Calls an address that a client chose, and protects our own network from such calls.

`runtime.checked_network` checks the address. The call has the original name in `Host` and in TLS.
Redirects, proxies and kept connections are not used.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import httpcore
import httpx

from contracts.addresses import Network
from runtime.checked_network import (
    DEFAULT_PORTS,
    CallFailed,
    CheckedBackend,
    Resolve,
    is_tls_fault,
    look_up,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The status of a receiver's answer, and its `Retry-After` header (None: it has none)."""

    status_code: int
    retry_after: str | None


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
        self._resolve = resolve or partial(look_up, self._pool)
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
            raise CallFailed("tls_failed" if is_tls_fault(error) else "connection_failed") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError, OSError):
            raise CallFailed("connection_broken") from None

    def close(self) -> None:
        """End the resolver's threads, without waiting for names that are being resolved."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _post(self, url: httpx.URL, headers: Mapping[str, str], body: bytes) -> Answer:
        backend = CheckedBackend(
            self._dialer, self._resolve, self._allowed, only_allowed=url.scheme == "http"
        )
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
