"""Fetches files from the web: from public addresses alone, no faster than each host allows, and as robots.txt permits.

Each connection goes to an address that was checked (`runtime.checked_network`), also after a redirect.
Proxies and cookies are not used.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Final

import httpcore
import httpx

from cli.crawl.items import Reason, Skipped
from cli.crawl.pace import Pace
from cli.crawl.pages import web_address
from cli.crawl.robots import MAX_ROBOTS_BYTES, Robots, Rules
from contracts.addresses import Network
from runtime.checked_network import DEFAULT_PORTS, CallFailed, CheckedBackend, look_up

AGENT: Final = "Darkroom"
"""The name of this crawler in robots.txt."""
MAX_REDIRECTS: Final = 5
TIMEOUT_S: Final = 60.0
"""The longest time of one request, its answer included."""
CONNECT_S: Final = 10.0
READ_S: Final = 20.0
BUSY_TRIES: Final = 3
"""How often a host is asked that answers 429 or 503 with a time."""
MAX_BUSY_S: Final = 60.0
"""The longest such time that is waited."""
MAX_CRAWL_DELAY_S: Final = 60.0
THREADS: Final = 8
CONNECTIONS: Final = 32
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_BUSY: Final = (429, 503)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose body is read: at most a byte more than the limit."""

    url: httpx.URL
    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def content_type(self) -> str:
        """The media type, in lower case, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class Fetcher:
    """Fetches files. `interval_s`: seconds between two requests to one host. `allowed`: networks of one's own
    that may be called too. `close` it at the end."""

    def __init__(
        self,
        interval_s: float,
        allowed: Sequence[Network] = (),
        *,
        dialer: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._pace = Pace(interval_s)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="resolve")
        backend = CheckedBackend(dialer or httpcore.AnyIOBackend(), partial(look_up, self._threads), allowed)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(), network_backend=backend, max_connections=CONNECTIONS
        )
        self._agent = f"{AGENT}/{version('darkroom')} (image search)"
        self._robots = Robots(self._read_rules)

    async def get(self, address: str, max_bytes: int) -> Answer:
        """The file at the address, after redirects. Raises `Skipped`."""
        url = web_address(address)
        for _ in range(MAX_REDIRECTS + 1):
            rules = await self._robots.rules(url)
            if not rules.allow(str(url), AGENT):
                raise Skipped(Reason.ROBOTS, rules.fault)
            if delay_s := rules.delay_s(AGENT):
                self._pace.slow_down(_origin(url), min(delay_s, MAX_CRAWL_DELAY_S))
            answer = await self._patiently(url, max_bytes)
            if answer.status in _REDIRECTS and "location" in answer.headers:
                url = _redirected(url, answer.headers["location"])
                continue
            if answer.status != 200:
                raise Skipped(Reason.STATUS, str(answer.status))
            if len(answer.data) > max_bytes:
                raise Skipped(Reason.BYTES)
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise Skipped(Reason.UNREADABLE, "compressed, though it was asked for as it is")
            return answer
        raise Skipped(Reason.REDIRECTS)

    async def close(self) -> None:
        """Close the connections, and end the threads without waiting for names that are being resolved."""
        await self._pool.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read_rules(self, url: httpx.URL) -> Rules:
        """The rules at the address of a robots.txt: RFC 9309, section 2.3."""
        for _ in range(MAX_REDIRECTS + 1):
            try:
                answer = await self._patiently(url, MAX_ROBOTS_BYTES)
            except Skipped as fault:
                if fault.reason is Reason.ADDRESS:
                    raise
                return Rules.closed("robots.txt is not answered")
            if answer.status in _REDIRECTS and "location" in answer.headers:
                url = _redirected(url, answer.headers["location"])
                continue
            if answer.status >= 500 or answer.status == 429:
                return Rules.closed(f"robots.txt is answered with {answer.status}")
            return Rules.of(answer.data if answer.status == 200 else b"")
        return Rules.of(b"")

    async def _patiently(self, url: httpx.URL, max_bytes: int) -> Answer:
        """The answer, in the host's turn. A host that is busy is asked again when it says."""
        for attempt in range(BUSY_TRIES):
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(self._pace.turn(_origin(url), now))
            answer = await self._once(url, max_bytes)
            again = answer.headers.get("retry-after", "")
            wait_s = float(again) if again.isascii() and again.isdigit() and len(again) < 6 else None
            if answer.status not in _BUSY or wait_s is None or wait_s > MAX_BUSY_S:
                break
            if attempt + 1 < BUSY_TRIES:
                self._pace.hold(_origin(url), asyncio.get_running_loop().time(), wait_s)
        return answer

    async def _once(self, url: httpx.URL, max_bytes: int) -> Answer:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._request(url, max_bytes)
        except CallFailed as fault:
            reason = Reason.ADDRESS if fault.refused else Reason.SILENT
            raise Skipped(reason, fault.code.replace("_", " ") if reason is Reason.SILENT else "") from None
        except (TimeoutError, httpcore.TimeoutException):
            raise Skipped(Reason.SILENT, "timeout") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise Skipped(Reason.SILENT, type(error).__name__) from None

    async def _request(self, url: httpx.URL, max_bytes: int) -> Answer:
        target = httpcore.URL(
            scheme=url.raw_scheme,
            host=url.raw_host,
            port=url.port or DEFAULT_PORTS[url.scheme],
            target=url.raw_path,
        )
        headers = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": self._agent,
            "Accept": "image/png, image/jpeg, image/webp, text/html;q=0.5, */*;q=0.1",
            "Accept-Encoding": "identity",
        }
        timeouts = {"connect": CONNECT_S, "read": READ_S, "write": CONNECT_S, "pool": TIMEOUT_S}
        async with self._pool.stream(
            "GET", target, headers=list(headers.items()), extensions={"timeout": timeouts}
        ) as response:
            found = {
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
            }
            parts, size = list[bytes](), 0
            async for part in response.aiter_stream():
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    break
            return Answer(url, response.status, found, b"".join(parts)[: max_bytes + 1])


def _origin(url: httpx.URL) -> str:
    return f"{url.host}:{url.port or DEFAULT_PORTS[url.scheme]}"


def _redirected(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return web_address(str(url.join(location)))
    except (httpx.InvalidURL, ValueError):
        raise Skipped(Reason.URL) from None
